"""One tool encodes the rows in its own process. It is a script: it imports nothing of daskt2i but for ours, because the
environment of a peer has only the peer, torch, diffusers and transformers.

Covers: Ray Data, `datasets.map`, the naive loop and ours, each as its users write it, with the times of its run;
reading the tool's own files again.
Does not cover: which tools, rounds, processor time and memory (`driver`, `watch`), whether latents agree (`agreement`).

    python peer.py TASK RESULT

Both are JSON files. The task has:

    name                  ray, ray-tuned, datasets, datasets-tuned, naive or daskt2i
    rows                  a JSON file: a list of {row, path, captions}
    vae, text, tokenizer  folders of diffusers and transformers
    resolution, max_tokens, workers, batch, precision, out, begun, checked

The result has `loaded`, `encoded` and `done` (time.time() when all workers had their models, when the last batch left
the models, and when all files were written), `ended`, `precision`, and what was read from the files afterwards: `rows`,
`finite`, `bytes`, and the sample in `OUT/sample.npz`.

A tuned tool computes in the precision of ours, in channels_last, pads a caption only to the longest of its batch and
writes fp16; otherwise a model is used as `from_pretrained` gives it, and captions are padded to the full length.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Task = Mapping[str, Any]
NAMES = ("ray", "ray-tuned", "datasets", "datasets-tuned", "naive")
WAIT_SECONDS = 300.0
"""The longest time that a worker waits until the others have loaded their models."""


def picture(path: str, side: int) -> Any:
    """uint8[side, side, 3]: the centred square of an upright RGB picture, scaled with a bicubic filter."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


class Encoder:
    """The models of one process.

    Args:
        task: the whole task.
        threads: torch threads; None for torch's own number.
    """

    def __init__(self, task: Task, threads: int | None = None) -> None:
        import diffusers
        import torch
        from transformers import AutoModel, AutoTokenizer, CLIPTextModel

        if threads is not None:
            torch.set_num_threads(threads)
        self.task, self.tuned = task, task["name"].endswith("-tuned")
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[task["precision"] if self.tuned else "fp32"]
        settings = json.loads(pathlib.Path(task["vae"], "config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, settings["_class_name"])
        self.vae = kind.from_pretrained(task["vae"], torch_dtype=dtype).eval()
        if self.tuned:
            self.vae = self.vae.to(memory_format=torch.channels_last)
        settings = json.loads(pathlib.Path(task["text"], "config.json").read_text(encoding="utf-8"))
        self.clip = "clip" in str(settings["model_type"])
        self.text = (CLIPTextModel if self.clip else AutoModel).from_pretrained(task["text"], dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"], local_files_only=True)  # nosec B615
        self.dtype = dtype

    def encode(self, paths: Sequence[str], captions: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
        """Arrays of a batch: `mean`, `std` if there is a posterior, and of all captions `states`, `lengths`."""
        import numpy as np
        import torch

        pixels = np.stack([picture(path, self.task["resolution"]) for path in paths])
        given = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(self.dtype)
        if self.tuned:
            given = given.contiguous(memory_format=torch.channels_last)
        kept = np.float16 if self.tuned else np.float32
        made: dict[str, list[Any]] = {}
        with torch.inference_mode():
            out = self.vae.encode(given)
            if hasattr(out, "latent_dist"):
                made["mean"] = list(out.latent_dist.mean.float().numpy().astype(kept))
                made["std"] = list(out.latent_dist.std.float().numpy().astype(kept))
            else:
                made["mean"] = list(out.latents.float().numpy().astype(kept))
            texts = self.tokenizer(
                [caption for some in captions for caption in some],
                padding=True if self.tuned else "max_length",
                truncation=True,
                max_length=self.task["max_tokens"],
                return_tensors="pt",
            )
            more = {} if self.clip else {"attention_mask": texts["attention_mask"]}
            states = self.text(input_ids=texts["input_ids"], **more).last_hidden_state.float().numpy().astype(kept)
        ends = np.cumsum([len(some) for some in captions])[:-1]
        made["states"] = np.split(states, ends)
        made["lengths"] = np.split(texts["attention_mask"].sum(1).numpy(), ends)
        return made


def wait_for_all(task: Task) -> None:
    """Note that this worker has its models, and wait for the other workers: start-up ends for all at the same time."""
    marks = pathlib.Path(task["out"], "loaded")
    marks.mkdir(parents=True, exist_ok=True)
    (marks / str(os.getpid())).write_text(repr(time.time()), encoding="utf-8")
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(marks.iterdir())) < task["workers"] and time.monotonic() < deadline:
        time.sleep(0.02)


def note_batch(task: Task) -> None:
    """Note that this worker's last batch is encoded."""
    marks = pathlib.Path(task["out"], "encoded")
    marks.mkdir(parents=True, exist_ok=True)
    (marks / str(os.getpid())).write_text(repr(time.time()), encoding="utf-8")


def result(task: Task, done: float) -> dict[str, Any]:
    """The times of a run: when the last worker had its models, and when the last batch was encoded."""
    last = {}
    for name in ("loaded", "encoded"):
        marks = pathlib.Path(task["out"], name).iterdir()
        last[name] = max(float(mark.read_text(encoding="utf-8")) for mark in marks)
    return {**last, "done": done, "precision": task["precision"] if task["name"].endswith("-tuned") else "fp32"}


class RayWorker:
    """The class that Ray Data's template gives to `map_batches`: one actor a core."""

    def __init__(self, task: Task) -> None:
        self.encoder = Encoder(task, 1 if task["name"].endswith("-tuned") else None)
        wait_for_all(task)

    def __call__(self, batch: dict[str, Any]) -> Any:
        import pyarrow

        made = self.encoder.encode(batch["path"], [json.loads(some) for some in batch["captions"]])
        note_batch(self.encoder.task)
        # Ray makes tensors of numpy's arrays, and fails where those of two batches have different shapes.
        columns = {name: lists(flat(values)) for name, values in made.items()}
        return pyarrow.table({"row": batch["row"], **columns, "shape": shapes(made)})


def lists(values: list[Any]) -> Any:
    """One column of arrow: a list of numbers for each flat array."""
    import numpy as np
    import pyarrow

    ends = np.cumsum([0, *map(len, values)])
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), pyarrow.array(np.concatenate(values)))


def flat(values: list[Any]) -> list[Any]:
    """Arrays as rows of numbers: a column needs no common shape then."""
    return [value.reshape(-1) for value in values]


def shapes(made: Mapping[str, list[Any]]) -> list[str]:
    """The shapes of the arrays of each row, as JSON."""
    rows = range(len(made["mean"]))
    return [json.dumps({name: values[row].shape for name, values in made.items()}) for row in rows]


def shaped(row: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a row whose numbers are in lists."""
    import numpy as np

    return {name: np.asarray(row[name]).reshape(shape) for name, shape in json.loads(row["shape"]).items()}


def run_ray(task: Task) -> dict[str, Any]:
    """Ray Data as its guide to batch inference writes it: rows, `map_batches` with a class, parquet."""
    import ray

    for last in (False, False, False, True):
        try:
            # The write needs a core of Ray's own count while the actors hold theirs.
            ray.init(num_cpus=task["workers"] + 1, include_dashboard=False, log_to_driver=False)
            break
        except Exception:  # its start has 30 seconds, which are too few on a busy machine
            ray.shutdown()
            if last:
                raise
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{**row, "captions": json.dumps(row["captions"])} for row in rows_of(task)]
    place = f"{task['out']}/parquet"
    ray.data.from_items(rows).map_batches(
        RayWorker,
        fn_constructor_args=(dict(task),),
        batch_size=task["batch"],
        compute=ray.data.ActorPoolStrategy(size=task["workers"]),
        num_cpus=1,
    ).write_parquet(place)
    done = time.time()
    ray.shutdown()
    return result(task, done)


def read_ray(task: Task) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the parquet files."""
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(f"{task['out']}/parquet").to_pylist():
        yield row["row"], shaped(row)


_encoder: Encoder | None = None


def mapped(batch: dict[str, list[Any]], task: Task) -> dict[str, list[Any]]:
    """The function that `datasets.map` calls. Each process loads its models with its first batch."""
    global _encoder
    if _encoder is None:
        _encoder = Encoder(task, 1)  # each of the processes would use all cores
        wait_for_all(task)
    made = _encoder.encode(batch["path"], batch["captions"])
    note_batch(task)
    return {**{name: flat(values) for name, values in made.items()}, "shape": shapes(made)}


def run_datasets(task: Task) -> dict[str, Any]:
    """`datasets.map` in batches with one process a core, saved as arrow files."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(rows_of(task))
    place = f"{task['out']}/arrow"
    data.map(
        mapped,
        batched=True,
        batch_size=task["batch"],
        num_proc=task["workers"] if task["workers"] > 1 else None,
        remove_columns=["path", "captions"],
        fn_kwargs={"task": dict(task)},
    ).save_to_disk(place)
    return result(task, time.time())


def read_datasets(task: Task) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the arrow files."""
    import datasets

    for row in datasets.load_from_disk(f"{task['out']}/arrow").with_format("numpy"):
        yield int(row["row"]), shaped({**row, "shape": str(row["shape"])})


def run_naive(task: Task) -> dict[str, Any]:
    """A loop in one process with torch's own threads: one image at a time, one file of numpy for each."""
    import numpy as np

    encoder = Encoder(task)
    wait_for_all({**task, "workers": 1})
    place = pathlib.Path(task["out"], "npz")
    place.mkdir(parents=True)
    for row in rows_of(task):
        made = encoder.encode([row["path"]], [row["captions"]])
        note_batch(task)
        np.savez(place / f"{row['row']:06d}.npz", **{name: values[0] for name, values in made.items()})
    return result(task, time.time())


def read_naive(task: Task) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the numpy files."""
    import numpy as np

    for path in sorted(pathlib.Path(task["out"], "npz").iterdir()):
        with np.load(path) as made:
            yield int(path.stem), dict(made)


def run_ours(task: Task) -> dict[str, Any]:
    """`encode` on a local Dask cluster with one worker a core, as a user runs it."""
    from daskt2i.bench.peers.ours import run

    return run(task)


def read_ours(task: Task) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the store."""
    from daskt2i.bench.peers.ours import read

    return read(task)


TOOLS = {
    "ray": (run_ray, read_ray),
    "datasets": (run_datasets, read_datasets),
    "naive": (run_naive, read_naive),
    "daskt2i": (run_ours, read_ours),
}
"""Tool -> what runs it, and what reads its files."""


def rows_of(task: Task) -> list[dict[str, Any]]:
    """The rows of the task."""
    return list(json.loads(pathlib.Path(task["rows"]).read_text(encoding="utf-8")))


def check(task: Task, found: Iterator[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Count the rows of a tool's files, look for numbers that are not finite, and keep the rows of `checked`."""
    import numpy as np

    numbers, finite, kept = set(), True, dict[str, Any]()
    for number, made in found:
        numbers.add(number)
        floats = [np.asarray(made[name]) for name in ("mean", "std", "states") if name in made]
        finite = finite and all(bool(np.isfinite(values.astype(np.float32)).all()) for values in floats)
        if number in task["checked"]:
            kept[f"mean-{number}"] = np.asarray(made["mean"], np.float32)
            states, lengths = np.asarray(made["states"], np.float32), np.asarray(made["lengths"], int)
            kept[f"states-{number}"] = np.concatenate([one[:n] for one, n in zip(states, lengths, strict=True)])
    np.savez(f"{task['out']}/sample.npz", **kept)
    return {"rows": len(numbers), "finite": finite}


def bytes_below(place: str) -> int:
    """Bytes of the files of a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(place).rglob("*") if path.is_file())


def main(given: str, answer: str) -> None:
    """Run the task, read what it wrote, and write the result."""
    task = json.loads(pathlib.Path(given).read_text(encoding="utf-8"))
    run, read = TOOLS[task["name"].removesuffix("-tuned")]
    found = run(task)
    found["ended"] = time.time()
    folder = {"ray": "parquet", "datasets": "arrow", "naive": "npz", "daskt2i": "run/latents.zarr"}
    found["bytes"] = bytes_below(f"{task['out']}/{folder[task['name'].removesuffix('-tuned')]}")
    found |= check(task, read(task))
    pathlib.Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
