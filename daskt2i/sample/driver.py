"""The sample stage: draw prompts and seeds on the workers of any executor, and write picture files.

Covers: the requested pictures, skipping pictures that are already there, tasks, files and the contact sheet.
Does not cover: one worker's part (`worker`), where tasks run (`executors`), measuring pictures (`evaluation`).
"""

from __future__ import annotations

import functools
import io
import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daskt2i.addresses import expanded, read_file
from daskt2i.config.settings import DatasetSettings
from daskt2i.documents import shown, storable
from daskt2i.errors import ConfigError, Interrupted, ModelMissing, SourceMissing, StoreError
from daskt2i.events import Activity, Listener, Note, Progress, ignore, tell_deaths
from daskt2i.formatting import duration, many
from daskt2i.hosts.check import SAMPLE, check_workers
from daskt2i.hosts.model_files import offer_within
from daskt2i.hosts.sight import Needs
from daskt2i.hosts.sight import shown as shown_in_folder
from daskt2i.model.own_encoders import cannot_draw, require_same_encoders
from daskt2i.model.pipeline import ABOUT, about, alone, pooled_padding, require
from daskt2i.protocols import Executor
from daskt2i.sample.image_grid import file_name, image_grid, png
from daskt2i.sample.other_model import NO_OTHER, OtherModel
from daskt2i.sample.painter import DrawnPicture, SampleRequest, SamplerSettings
from daskt2i.sample.prompt_lengths import too_long
from daskt2i.sample.worker import SampleJob, draw_part
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, State, progress
from daskt2i.store.layout import about_store
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import PIPELINE, SAMPLES, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.view import Picture, View, Viewed

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET_PICTURES = 64
"""Maximum number of pictures on a sheet; more would be too small."""

_SAMPLES = f"{SAMPLES}/samples.json"


@dataclass(frozen=True, slots=True, repr=False)
class SampleResult(Viewed):
    """The result of `sample`.

    Attributes:
        files: addresses of the files, the sheet first.
        pictures: number of pictures.
        seconds: wall time; 0 if all pictures were already there.
        requests: prompt and seed of each picture, in the order of `files`.
        folder: the run folder of the files.
    """

    files: tuple[str, ...]
    pictures: int
    seconds: float
    requests: tuple[SampleRequest, ...]
    folder: RunFolder

    @property
    def images(self) -> list[Image]:
        """The pictures (`PIL.Image.Image`, RGB), in the order of `requests`. Each access reads the files again.

        Raises:
            FileNotFoundError: a file was removed.
        """
        from PIL import Image

        return [Image.open(io.BytesIO(data)).convert("RGB") for data in self._data(self.pictures)]

    def _data(self, most: int) -> list[bytes]:
        names = [f"{SAMPLES}/{file.rpartition('/')[2]}" for file in self.files[1 : 1 + most]]
        return [self.folder.read(name) for name in names]

    def to_json(self) -> dict[str, Any]:
        """The object that `sample --json` prints."""
        return {"files": list(self.files), "pictures": self.pictures, "seconds": round(self.seconds, 3)}

    def view(self) -> View:
        """The number of pictures and their address; in a notebook also the pictures with their prompts."""
        rate = self.pictures / self.seconds if self.seconds > 0 else 0.0
        each = f"{rate:.1f} pictures/s" if rate >= 0.1 else f"{rate:.1g} pictures/s"
        speed = f"{each}, {duration(self.seconds)}" if rate else ""
        rows = [("pictures", f"{self.pictures:,} ({speed or 'drawn before'})")]
        rows.append(("sheet", self.files[0] if self.files else ""))
        if self.pictures == 1:
            rows.append(("picture", self.files[1]))
        shown = self.requests[:SHEET_PICTURES]
        several = len({request.seed for request in self.requests}) > 1
        labels = [request.prompt + (f" ({request.seed})" if several else "") for request in shown]
        prompts = list(dict.fromkeys(request.prompt for request in shown))
        places = [prompts.index(request.prompt) if several else 0 for request in shown]
        return View("Drawn", tuple(rows), make_pictures=partial(self._pictures, labels, places))

    def _pictures(self, labels: Sequence[str], places: Sequence[int]) -> tuple[Picture, ...]:
        """The pictures with these labels, in these rows: several pictures of a prompt are in a row of their own."""
        try:
            data = self._data(len(labels))
        except (FileNotFoundError, StoreError):  # removed since
            return ()
        return tuple(Picture(png, label, row=row) for png, label, row in zip(data, labels, places, strict=True))


def sample(
    folder: RunFolder,
    requests: Sequence[SampleRequest],
    settings: SamplerSettings,
    executor: Executor,
    device: str = "auto",
    listener: Listener = ignore,
    dataset: DatasetSettings | None = None,
    other: OtherModel = NO_OTHER,
    send_bytes: int = 0,
) -> SampleResult:
    """Draw pictures into `samples/`. Does nothing if the same pictures of the same pipeline are already there.

    Arguments and errors are those of `draw` and `write`.
    """
    other.require()
    made_from = {
        "pipeline": other.drawn_by(about(folder).get("fingerprint")),
        "wishes": [[request.prompt, request.seed] for request in requests],
        "look": [settings.steps, settings.guidance, settings.sampler],
    }
    there = _read_json(folder, _SAMPLES)
    listed = there.get("files")
    plain = isinstance(listed, list) and all(isinstance(name, str) and "/" not in name for name in listed)
    names = [f"{SAMPLES}/{name}" for name in listed] if isinstance(listed, list) and plain else []
    if made_from["pipeline"] and names and there.get("made_from") == made_from and all(map(folder.exists, names)):
        them = "This picture is" if len(requests) == 1 else f"These {len(requests):,} pictures are"
        listener(Note(f"{them} there already: the same model drew the same prompts, seeds and settings before."))
        return SampleResult(tuple(map(folder.address, names)), len(requests), 0.0, tuple(requests), folder)
    if other:
        claim(folder)  # models may go through it, and a folder of somebody else is refused before the drawing
    begun = perf_counter()
    pictures = draw(folder, requests, settings, executor, device, listener, dataset, other, send_bytes)
    files = tuple(write(folder, pictures, settings, str(made_from["pipeline"])))
    names = [name.rpartition("/")[2] for name in files]
    folder.write(_SAMPLES, json.dumps({"made_from": made_from, "files": names}, indent=1).encode())
    return SampleResult(files, len(pictures), perf_counter() - begun, tuple(requests), folder)


def draw(
    folder: RunFolder,
    requests: Sequence[SampleRequest],
    settings: SamplerSettings,
    executor: Executor,
    device: str = "auto",
    listener: Listener = ignore,
    dataset: DatasetSettings | None = None,
    other: OtherModel = NO_OTHER,
    send_bytes: int = 0,
) -> list[DrawnPicture]:
    """Draw all requested pictures.

    Args:
        executor: not started yet; this function always closes it at the end.
        listener: gets the number of drawn pictures.
        dataset: section of the workflow. A pipeline without encoders draws through those that it names.
        other: another pipeline, or a LoRA.
        send_bytes: the most bytes of these that go through the run folder to hosts that lack them.

    Returns:
        The pictures, in the order of `requests`.

    Raises:
        ModelMissing: the run folder has no pipeline, or its encoders cannot decode.
        FingerprintMismatch: the store was made by other encoders than those of `dataset`.
        Interrupted: the user pressed Ctrl-C.
        Daskt2iError: an error on a worker.
    """
    with closing(executor):
        own = None if other.pretrained is not None else dataset_to_draw(folder, dataset)
        return _drawn(folder, requests, settings, executor, device, listener, own, other, send_bytes)


def dataset_to_draw(folder: RunFolder, dataset: DatasetSettings | None) -> DatasetSettings | None:
    """The section whose encoders draw for a denoiser that has none; None if the pipeline has its own.

    Raises:
        ModelMissing: the run folder has no pipeline, or the encoders of the workflow cannot decode.
        FingerprintMismatch: the store was made by other encoders than those of `dataset`.
    """
    require(folder)
    return None if alone(folder) is None else _own_dataset(folder, dataset)


def _own_dataset(folder: RunFolder, dataset: DatasetSettings | None) -> DatasetSettings:
    why = "no workflow was given that names them" if dataset is None else cannot_draw(dataset)
    if dataset is None or why:
        raise ModelMissing(
            f"The model in {folder} draws through the encoders of its workflow, but {why}. It was not changed; give "
            "the workflow of the training, with an image encoder whose decode method returns pictures."
        )
    if (stored := about_store(ZarrStore(folder))) is not None:
        require_same_encoders(dataset, stored, folder)
    return dataset


def _drawn(
    folder: RunFolder,
    requests: Sequence[SampleRequest],
    settings: SamplerSettings,
    executor: Executor,
    device: str,
    listener: Listener,
    dataset: DatasetSettings | None,
    other: OtherModel = NO_OTHER,
    send_bytes: int = 0,
) -> list[DrawnPicture]:
    trained = other.pretrained is None
    if trained and pooled_padding(folder):
        listener(
            Note(
                "An older version trained this model, and counted the padding of captions as part of the prompt. It "
                "draws, but follows prompts less well than a model of this version. To get one, encode and train in "
                "another run folder (out)."
            )
        )
    made = progress(folder, PIPELINE_FOLDER) if trained else None
    if made is not None and made.model.state is State.OTHER:
        listener(
            Note(f"These pictures are not drawn by the newest checkpoint: the pipeline differs ({made.model.why}).")
        )
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    told = too_long(folder, prompts, dataset) if trained else {}
    if told:
        listener(Note(_cut_note(told, len(prompts))))
    found: dict[int, DrawnPicture] = {}
    try:
        count = f"{len(requests):,} picture{'s' * (len(requests) != 1)}"
        listener(Activity(f"{count} to draw; first the workers start"))
        begun = perf_counter()
        executor_info = executor.start()
        label = f"{PIPELINE}/{ABOUT}"
        seen = shown_in_folder(folder, label) if trained else ""
        needs = Needs(folder, seen, label, models=other.find if other else None)
        send = partial(offer_within, send_bytes, other.find, folder, listener)
        left = check_workers(executor, needs, executor_info.workers, 0.0, listener, SAMPLE, send).left
        executor_info = left or executor_info
        listener(Activity(_ready(executor_info.workers, perf_counter() - begun)))
        size = min(settings.batch, max(1, -(-len(requests) // executor_info.workers)))
        parts = [(start, tuple(requests[start : start + size])) for start in range(0, len(requests), size)]
        task = SampleJob(folder, settings, device, executor_info.threads, dataset, other)
        with closing(_closable(executor.run(functools.partial(draw_part, task), parts))) as outcomes:
            for (start, _), outcome in outcomes:
                tell_deaths(executor, listener, "drawn")
                if isinstance(outcome, BaseException):
                    raise outcome
                found |= enumerate(outcome, start)
                listener(Progress("pictures drawn", len(found), len(requests)))
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped after {len(found)} of {many(len(requests), 'picture')}. No picture was written; draw again to "
            "get all."
        ) from None
    cut = {picture.request.prompt for picture in found.values() if picture.cut}
    if late := [prompt for prompt in prompts if prompt in cut and prompt not in told]:
        listener(Note(_cut_note(dict.fromkeys(late, ""), len(prompts))))
    return [found[number] for number in range(len(requests))]


def _cut_note(cut: dict[str, str], of: int) -> str:
    """A note about prompts that are too long.

    Args:
        cut: these prompts. The value of the first one is its part that counts; "" if that is not known.
        of: number of all prompts.
    """
    many, (first, kept) = len(cut) > 1, next(iter(cut.items()))
    begin, last = textwrap.shorten(first, 60, placeholder=" …"), " ".join(kept.split()[-_LAST_WORDS:])[-_LAST_LETTERS:]
    where = f", which is cut after {last!r}" if last else ""
    return (
        f"{len(cut)} of {of} prompt{'s' * (of > 1)} {'are' if many else 'is'} longer than what the text encoder reads, "
        f"so {'their ends do' if many else 'its end does'} not count: {begin!r}{where}."
    )


def _ready(workers: int, seconds: float) -> str:
    """What happens until the first picture. On a cold machine it takes half a minute, mostly the import of torch and
    diffusers in each process; both load before the first picture, so nothing else can tell of it."""
    there = "1 worker is ready" if workers == 1 else f"{workers:,} workers are ready"
    return f"{there} after {duration(seconds)}; each loads torch, diffusers and the model before its first picture"


def _closable(outcomes: Iterator[Any]) -> Any:
    """Make the result of an executor closable: a third-party executor may return any iterator."""
    return outcomes if hasattr(outcomes, "close") else (pair for pair in outcomes)


def write(folder: RunFolder, pictures: Sequence[DrawnPicture], settings: SamplerSettings, drawn_by: str) -> list[str]:
    """Write each picture as a PNG, and a sheet of the first ones. Returns their addresses, the sheet first.

    A file of an earlier call is replaced only by the same picture. The sheet is always that of this call.

    Args:
        drawn_by: fingerprint of the pipeline.

    Raises:
        StoreFull, StoreError: the files cannot be written.
    """
    claim(folder)
    written = []
    facts = {
        "Steps": settings.steps,
        "Guidance": f"{settings.guidance:g}",
        "Sampler": settings.sampler,
        "Software": "daskt2i",
    }
    for number, picture in enumerate(pictures):
        said = {"Prompt": picture.request.prompt, "Seed": picture.request.seed, **facts}
        look = (settings.steps, settings.guidance, settings.sampler, drawn_by)
        name = f"{SAMPLES}/{file_name(number, picture.request.prompt, picture.request.seed, *look)}"
        folder.write(name, png(picture.pixels, said))
        written.append(folder.address(name))
    first = pictures[:SHEET_PICTURES]
    seeds = len({picture.request.seed for picture in first})
    labels = [p.request.prompt + (f" ({p.request.seed})" if seeds > 1 else "") for p in first]
    prompts = list(dict.fromkeys(picture.request.prompt for picture in first))
    facts["Prompts"] = "\n".join(prompts)
    facts["Seeds"] = ", ".join(str(seed) for seed in dict.fromkeys(picture.request.seed for picture in first))
    folder.write(f"{SAMPLES}/sheet.png", png(image_grid([picture.pixels for picture in first], labels), facts))
    return [folder.address(f"{SAMPLES}/sheet.png"), *written]


_LAST_WORDS, _LAST_LETTERS = 4, 40
"""Words, and letters at most, that a note shows before the cut of a prompt."""

_MOST_SEED = 2**63
"""torch takes seeds of 64 bits."""


def requests_for(prompts: Sequence[str], seed: int, count: int = 1) -> list[SampleRequest]:
    """Requests for each prompt with `count` seeds, starting at `seed`.

    Raises:
        ConfigError: there are no prompts, or a prompt or the seed cannot be used.
    """
    if not prompts:
        raise ConfigError(
            "There are no prompts, so nothing was drawn. Give prompts (prompts), or set sample.prompts in the workflow."
        )
    for number, prompt in enumerate(prompts, 1):
        if storable(prompt) != prompt:
            raise ConfigError(
                f"Prompt {number} is {shown(prompt)}, which is not whole text, so nothing was drawn. Write it as UTF-8."
            )
    if not 0 <= seed < _MOST_SEED - count:
        raise ConfigError(f"The seed is {shown(seed)}, so nothing was drawn. Give a number from 0, below 2**63.")
    return [SampleRequest(prompt, seed + number) for prompt in prompts for number in range(count)]


def read_prompts(path: str) -> list[str]:
    """Read a text file with one prompt on each line. Empty lines and lines that begin with # are ignored.

    Raises:
        SourceMissing: there is no such file.
        ConfigError: the file is not UTF-8 text, it has no prompt, or there can be no such path.
    """
    place = expanded(path, "prompts")
    try:
        text = read_file(place).decode("utf-8-sig")
    except OSError as error:
        raise SourceMissing(
            f"The file of prompts {path} cannot be read: {error.strerror}. Nothing was drawn. Check the path."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"The file of prompts {path} is not UTF-8 text, so nothing was drawn. Save it as UTF-8, with one prompt on "
            "each line."
        ) from error
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ConfigError(f"The file {path} has no prompts, so nothing was drawn. Write one prompt on each line.")
    return found


def _read_json(folder: RunFolder, name: str) -> dict[str, Any]:
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
