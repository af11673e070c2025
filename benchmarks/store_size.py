"""How many bytes a row of a store has in each form, what the form loses, and whether a training notices.

    python benchmarks/store_size.py sizes --photographs DIR --tokenizer DIR --folder /tmp/store-size
    python benchmarks/store_size.py training --folder /tmp/store-size --rows 384 --steps 120

Covers: bytes on disk of 80 photographs through Stable Diffusion's VAE and CLIP (random weights: bytes, not pictures);
PSNR of latents and of decoded pictures, and errors of text states, through the demo's trained encoders; time to read
text states; loss of the demo's training for each form with the same seed, and for two other seeds of the exact form.
Does not cover: other data. `sizes` encodes each exact store once and writes the forms from it. It prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import daskt2i
from daskt2i.config.store_settings import StoreSettings
from daskt2i.encode import gates
from daskt2i.loader.shards import Reader, Wanted
from daskt2i.machine.processor import processor_name
from daskt2i.protocols import ImageEncoder
from daskt2i.store.forms.chunks import to_stored
from daskt2i.store.forms.form import described, forms_of, stored_arrays
from daskt2i.store.forms.made_rows import read_made
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Chunk, Constant, Encoded, Runtime

FORMS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "packed": {"packed": True},
    "mean alone": {"std": False},
    "bfloat16": {"latents": "bfloat16", "text": "bfloat16"},
    "int8 latents": {"latents": "int8"},
    "int8 latents, mean alone": {"latents": "int8", "std": False},
    "int8": {"latents": "int8", "text": "int8"},
    "int8, packed, mean alone": {"latents": "int8", "text": "int8", "packed": True, "std": False},
    "int8 latents, mean alone, text at training": {"latents": "int8", "std": False, "text": "training"},
}

TRAINED = ("exact", "bfloat16", "int8", "int8 latents, mean alone", "int8 latents, mean alone, text at training")
"""Forms to train on. A packed store gives the numbers of an exact one."""

COCO_ROWS = 82_783
"""Images of COCO train2014."""

Arrays = dict[str, np.ndarray[Any, Any]]


def encode(workflow: str, out: Path, settings: Mapping[str, Any], **data: str) -> None:
    """Encode into `out`, unless it is there."""
    with daskt2i.Run(workflow, out, settings=settings, scheduler="serial", progress=False, **data) as run:
        run.encode().raise_for_failed()


def restored(exact: ZarrStore, place: Path, settings: StoreSettings) -> ZarrStore:
    """A store with the rows of an exact one, in other forms. It has no receipts."""
    layout = exact.layout()
    specs = {
        name: ArraySpec(name, tuple(a["dims"]), tuple(a["shape"]), a["dtype"], a["fill"])
        for name, a in layout["arrays"].items()
    }
    text = [one for name, one in specs.items() if name.startswith("text_") and settings.text != "training"]
    image = [one for name, one in specs.items() if name == "latent_mean" or (name == "latent_std" and settings.std)]
    rest = [one for name, one in specs.items() if not name.startswith(("text_", "latent_"))]
    about = (exact.attributes() or {})["daskt2i"]
    forms = forms_of(settings, image, text, about["text_encoder"].get("pad") == "full")
    constants = [Constant(name, tuple("abc"[: v.ndim]), v) for name, v in exact.constants().items()]
    store = ZarrStore(RunFolder(place))
    rows, step = layout["rows"], layout["rows_per_chunk"]
    store.create(
        rows,
        step,
        stored_arrays(forms, [*image, *text, *rest]),
        {"daskt2i": {**about, **described(forms)}},
        constants if text else [],
    )
    for index, start in enumerate(range(0, rows, step)):
        chunk = Chunk(index, start, min(start + step, rows))
        made = {one.name: exact.read(one.name, chunk.start, chunk.stop) for one in (*image, *text, *rest)}
        for name in made:
            if specs[name].dtype == "string":
                made[name] = made[name].astype(np.dtypes.StringDType())
        attempt = begin_attempt(store.folder, "", index)
        store.publish(attempt.place, store.write(chunk, Encoded(to_stored(forms, made)), attempt))
    return store


def bytes_of(store: ZarrStore, rows: int) -> dict[str, float]:
    """Bytes a row on disk: latents, text states and masks, the rest."""
    found = {"latents": 0, "text": 0, "rest": 0}
    for path in store.folder.local_path("latents.zarr").rglob("c.*"):
        array = path.parent.name
        kind = "latents" if array.startswith("latent_") else "text" if array.startswith("text_") else "rest"
        found[kind] += path.stat().st_size
    return {kind: round(size / rows, 1) for kind, size in found.items()}


def psnr(made: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float | None:
    """dB, with the range of the exact values as peak; None if they are equal."""
    a, b = made.astype(np.float64), other.astype(np.float64)
    error = np.nanmean((a - b) ** 2)
    return None if error == 0 else round(float(10 * np.log10((np.nanmax(a) - np.nanmin(a)) ** 2 / error)), 1)


def read_seconds(store: ZarrStore) -> float:
    """Processor seconds for reading one caption of each row once, as training does; the best of three."""
    took = []
    for _ in range(3):
        reader = Reader(store, 0, False, Wanted(latents=False))
        begun = time.process_time()
        for chunk in reader.grid:
            reader.read([[(0, row) for row in range(chunk.start, chunk.stop)]])
        took.append(time.process_time() - begun)
        reader.close()
    return min(took)


def sizes(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Bytes and losses of each form."""
    photographs, folder = Path(arguments.photographs), Path(arguments.folder)
    data = {"images": str(photographs / "images"), "captions": str(photographs / "captions.json")}
    same = {"dataset.precision": "fp32", "dataset.rows_per_chunk": 80}  # numbers of bf16 would be shorter
    large = {**same, "dataset.encoders.text.tokenizer": arguments.tokenizer}
    encode("coco-sd15-random", folder / "sd", large, **data)
    encode("demo", folder / "demo", {**same, "dataset.image.resolution": 256}, **data)
    sd, demo = (ZarrStore(RunFolder(folder / name)) for name in ("sd", "demo"))
    with daskt2i.Run("demo", folder / "demo", progress=False) as run:
        vae: ImageEncoder = run.workflow.dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    vae.load(Runtime("cpu", "fp32", 1))
    rows = sd.layout()["rows"]
    chosen = range(0, rows, 10)
    exact = np.concatenate([demo.read("latent_mean", row, row + 1) for row in chosen])
    pictures = vae.decode({"latent_mean": exact})
    assert pictures is not None
    for name, given in FORMS.items():
        settings = StoreSettings.model_validate(given)
        place = folder / f"form-{list(FORMS).index(name)}"
        store = restored(sd, place / "sd", settings)
        small = restored(demo, place / "demo", settings)
        found = np.concatenate([read_made(small, "latent_mean", row, row + 1) for row in chosen])
        decoded = vae.decode({"latent_mean": found})
        assert decoded is not None
        per_row = bytes_of(store, rows)
        line: dict[str, Any] = {"form": name, **per_row, "bytes": round(sum(per_row.values()))}
        line["coco_gb"] = round(sum(per_row.values()) * COCO_ROWS / 1e9, 2)
        line["latent_psnr"] = psnr(exact, found)
        line["picture_psnr"] = round(min(99.0, gates.psnr(pictures, decoded)), 1)
        if settings.text != "training":
            states = read_made(small, "text_states", 0, rows)
            line["text_psnr"] = psnr(demo.read("text_states", 0, rows), states)
            line["read_text_ms_a_row"] = round(1000 * read_seconds(store) / rows, 3)
        yield line


def training(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Losses of the demo's training on a store of each form."""
    folder = Path(arguments.folder)
    runs = [(name, FORMS[name], 0) for name in TRAINED] + [("exact", {}, seed) for seed in (1, 2)]
    for number, (name, given, seed) in enumerate(runs):
        settings: dict[str, Any] = {
            **{f"dataset.store.{key}": value for key, value in given.items()},
            "dataset.encoders.text.pad": "length",
            "dataset.precision": "fp32",
            "scenes.rows": arguments.rows,
            "train.steps": arguments.steps,
            "train.batch": 16,
            "train.seed": seed,
            "train.posterior": "sample",
            "train.validation": 0,  # near copies are found in latents, so another form may hold out other rows
            "launch.ranks": 1,
            "launch.precision": "fp32",
            "launch.grid_every": 0,
            "launch.checkpoint_every": arguments.steps,
        }
        with daskt2i.Run(
            "demo", folder / f"train-{number}", settings=settings, scheduler="serial", progress=False
        ) as run:
            run.encode().raise_for_failed()
            done = run.train()
        yield {"form": name, "seed": seed, "loss": done.loss, "seconds": done.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "training"))
    parser.add_argument("--folder", required=True)
    parser.add_argument("--photographs", help="a folder with captions.json and images/")
    parser.add_argument("--tokenizer", help="a folder with CLIP's tokenizer")
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    lines = sizes(arguments) if arguments.what == "sizes" else training(arguments)
    for line in itertools.chain([{"processor": processor_name()}], lines):
        json.dump(line, sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
