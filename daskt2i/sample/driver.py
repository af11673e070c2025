"""The sample stage: prompts and seeds to picture files, spread over the workers of any executor.

Covers: which pictures are asked for, what is skipped, cutting them into tasks, files and the sheet.
Does not cover: a worker's part (`worker`), where tasks run (`executors`), whether pictures are right (`evaluation`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from daskt2i.errors import ConfigError, SourceMissing, Stopped
from daskt2i.events import Listener, Progress, ignore
from daskt2i.model.pipeline import about
from daskt2i.protocols import Executor
from daskt2i.sample.image_grid import file_name, png, sheet
from daskt2i.sample.painter import Look, Picture, Wish
from daskt2i.sample.worker import Task, draw_part
from daskt2i.store.run_folder import SAMPLES, RunFolder

SHEET_PICTURES = 64
"""Most pictures on a sheet; more would be too small to see."""

_SAMPLES = f"{SAMPLES}/samples.json"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What `sample` made.

    Attributes:
        files: addresses, the sheet's first.
        pictures: how many.
        seconds: of this command; 0 where they were there.
    """

    files: tuple[str, ...]
    pictures: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that `sample --json` prints."""
        return {"files": list(self.files), "pictures": self.pictures, "seconds": round(self.seconds, 3)}


def sample(
    folder: RunFolder,
    wishes: Sequence[Wish],
    look: Look,
    executor: Executor,
    device: str = "auto",
    listener: Listener = ignore,
) -> Drawn:
    """Draw into `samples/`; nothing where the same pictures of the same pipeline are there.

    Args and errors are those of `draw`, and of `write`.
    """
    mark = {
        "pipeline": about(folder).get("fingerprint"),
        "wishes": [[wish.prompt, wish.seed] for wish in wishes],
        "look": [look.steps, look.guidance, look.sampler],
    }
    there = _read_json(folder, _SAMPLES)
    names = [f"{SAMPLES}/{name}" for name in there.get("files", [])]
    if mark["pipeline"] and there.get("made_from") == mark and all(map(folder.exists, names)):
        return Drawn(tuple(map(folder.address, names)), len(wishes), 0.0)
    begun = perf_counter()
    pictures = draw(folder, wishes, look, executor, device, listener)
    files = tuple(write(folder, pictures, look))
    names = [name.rpartition("/")[2] for name in files]
    folder.write(_SAMPLES, json.dumps({"made_from": mark, "files": names}, indent=1).encode())
    return Drawn(files, len(pictures), perf_counter() - begun)


def draw(
    folder: RunFolder,
    wishes: Sequence[Wish],
    look: Look,
    executor: Executor,
    device: str = "auto",
    listener: Listener = ignore,
) -> list[Picture]:
    """Draw all of them.

    Args:
        executor: not started yet; closed at the end, however it ends.
        listener: told how many pictures are drawn.

    Returns:
        In the order of `wishes`.

    Raises:
        Stopped: the user pressed Ctrl-C.
        Daskt2iError: what went wrong on a worker.
    """
    with closing(executor):
        return _drawn(folder, wishes, look, executor, device, listener)


def _drawn(
    folder: RunFolder, wishes: Sequence[Wish], look: Look, executor: Executor, device: str, listener: Listener
) -> list[Picture]:
    workforce = executor.start()
    size = min(look.batch, max(1, -(-len(wishes) // workforce.workers)))
    parts = [(start, tuple(wishes[start : start + size])) for start in range(0, len(wishes), size)]
    task = Task(folder, look, device, workforce.threads)
    found: dict[int, Picture] = {}
    try:
        with closing(_closable(executor.run(functools.partial(draw_part, task), parts))) as outcomes:
            for (start, part), outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                for number, (wish, pixels) in enumerate(zip(part, outcome, strict=True), start):
                    found[number] = Picture(wish, pixels)
                listener(Progress("pictures drawn", len(found), len(wishes)))
    except KeyboardInterrupt:
        raise Stopped(f"Stopped after {len(found)} of {len(wishes)} pictures; none was written.") from None
    return [found[number] for number in range(len(wishes))]


def _closable(outcomes: Iterator[Any]) -> Any:
    """What a third-party executor returns may be any iterator."""
    return outcomes if hasattr(outcomes, "close") else (pair for pair in outcomes)


def write(folder: RunFolder, pictures: Sequence[Picture], look: Look, prefix: str = SAMPLES) -> list[str]:
    """Each picture as a PNG, and a sheet of the first ones. Returns their addresses, the sheet's first.

    Raises:
        StoreFull, StoreError: they cannot be written.
    """
    written = []
    facts = {"Steps": look.steps, "Guidance": f"{look.guidance:g}", "Sampler": look.sampler, "Software": "daskt2i"}
    for number, picture in enumerate(pictures):
        said = {"Prompt": picture.wish.prompt, "Seed": picture.wish.seed, **facts}
        name = f"{prefix}/{file_name(number, picture.wish.prompt, picture.wish.seed)}"
        folder.write(name, png(picture.pixels, said))
        written.append(folder.address(name))
    first = pictures[:SHEET_PICTURES]
    seeds = len({picture.wish.seed for picture in first})
    labels = [p.wish.prompt + (f" ({p.wish.seed})" if seeds > 1 else "") for p in first]
    prompts = list(dict.fromkeys(picture.wish.prompt for picture in first))
    facts["Prompts"] = "\n".join(prompts)
    facts["Seeds"] = ", ".join(str(seed) for seed in dict.fromkeys(picture.wish.seed for picture in first))
    folder.write(f"{prefix}/sheet.png", png(sheet([picture.pixels for picture in first], labels), facts))
    return [folder.address(f"{prefix}/sheet.png"), *written]


def wishes_for(prompts: Sequence[str], seed: int, count: int = 1) -> list[Wish]:
    """Each prompt with `count` seeds from `seed` on.

    Raises:
        ConfigError: no prompts.
    """
    if not prompts:
        raise ConfigError(
            "There is nothing to draw: give --prompt TEXT (again for more), --prompts FILE, or sample.prompts in the "
            "workflow."
        )
    return [Wish(prompt, seed + number) for prompt in prompts for number in range(count)]


def read_prompts(path: str) -> list[str]:
    """A text file with one prompt per line; empty lines and those that begin with # do not count.

    Raises:
        SourceMissing: no such file.
        ConfigError: it is no text.
    """
    from pathlib import Path

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceMissing(f"The file of prompts {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The file of prompts {path} is not UTF-8 text; write one prompt per line.") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _read_json(folder: RunFolder, name: str) -> dict[str, Any]:
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
