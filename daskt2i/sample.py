"""The sample stage: prompts and seeds to picture files, spread over the workers of any executor.

Covers: which pictures are asked for, cutting them into tasks, one pipeline per worker process, files and the sheet.
Does not cover: drawing (`painter`), where tasks run (`executors`), whether pictures are right (`evaluate`).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from daskt2i.errors import ConfigError, SourceMissing, Stopped
from daskt2i.folder import SAMPLES, RunFolder
from daskt2i.model_cache import REPEATABLE, without_collection
from daskt2i.painter import Look, Painter, Picture, Wish
from daskt2i.pipeline import about, local
from daskt2i.protocols import Executor, Workforce
from daskt2i.sheet import file_name, png, sheet
from daskt2i.types import Pixels

SHEET_PICTURES = 64
"""Most pictures on a sheet; more would be too small to see."""

Part = tuple[int, tuple[Wish, ...]]
"""Some of the wishes, and the number of the first."""


@dataclass(frozen=True, slots=True)
class Task:
    """What each worker is told, beside its part of the wishes.

    Attributes:
        folder: the run folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: torch threads of each worker.
    """

    folder: RunFolder
    look: Look
    device: str
    threads: int


_turn = threading.Lock()
_held: tuple[str, Painter] | None = None
"""The pipeline of this process, and what it is."""


def painter_for(task: Task) -> Painter:
    """The pipeline of a run folder, loaded if this process does not hold it yet.

    Raises:
        ModelMissing, ModelError: there is none, or it cannot be loaded.
        ConfigError: the device is not there.
    """
    global _held
    os.environ.setdefault("MKL_CBWR", REPEATABLE)
    from daskt2i.encoders.precision import check_device, default_device

    device = default_device() if task.device == "auto" else check_device(task.device)
    # What it was trained on, and how far: another training's pipeline says something else there.
    key = repr((str(task.folder), device, about(task.folder)))
    with _turn:
        if _held is None or _held[0] != key:
            _held = None
            with local(task.folder) as place, without_collection():
                _held = (key, Painter(place, device, task.threads))
        return _held[1]


def draw_part(task: Task, part: Part) -> list[Pixels]:
    """On a worker: some pictures."""
    return [picture.pixels for picture in painter_for(task).paint(part[1], task.look)]


def draw(
    folder: RunFolder,
    wishes: Sequence[Wish],
    look: Look,
    executor: Executor,
    workforce: Workforce,
    device: str = "auto",
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> list[Picture]:
    """Draw all of them on an executor that was started.

    Args:
        tell: called with pictures done, and pictures in all.

    Returns:
        In the order of `wishes`.

    Raises:
        Stopped: the user pressed Ctrl-C.
        Daskt2iError: what went wrong on a worker.
    """
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
                tell(len(found), len(wishes))
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
