"""Record what the command line does, so that a refactoring can show that nothing changed.

    python tests/golden/record.py FOLDER [--keep] [--only CASE ...]
    python tests/golden/compare.py BEFORE/golden.json AFTER/golden.json

Record once before the change and once after it, on the same machine and with the same packages, then compare.
It takes four to five minutes on two cores.

Covers: exit codes, standard output and standard error of some hundred commands; every file of the run folders that
they make: shards, receipts, manifest, checkpoints, pipelines, pictures, reports. All of it on a CPU in fp32.
Does not cover: figures of time, rate and memory, which differ between two runs of the same code (`VARIES`, `TEXT`, the
one place where such things are blanked, and the cases that keep names of figures alone); a terminal with colours; GPUs;
object stores; killed processes; the Python interface; anything that depends on the order of a set.

This module imports nothing of daskt2i, for its modules will have other names. `golden.json` is not committed: the kind
of CPU decides the last bits of a float, the number of cores decides a plan, so that a recording of another machine
would differ from ours without a reason. What can be held everywhere is in `tests/test_frozen_names.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "daskt2i.workflow")
REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"

# What varies by nature. Everything else is kept exactly.

VARIED = "<varies>"

VARIES = re.compile(
    r"(^|\.)("
    r"seconds|images_per_second|samples_per_second|worker|peak_bytes|versions\.[^.]+|seconds\.[^.]+|shares\.[^.]+"
    r"|_diffusers_version|transformers_version|diffusers_version"
    r")$"
)
"""Names of JSON values, with dots between a name and those around it."""

TEXT = (
    (re.compile(r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|\+00:00)?"), "<date>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)? (images/s|samples/s|pictures/s)"), "<rate>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)? (s|ms|min|h)\b( \d+ (s|min)\b)?"), "<time>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"\bpid \d+"), "pid <pid>"),
    (re.compile(rf"\b{re.escape(socket.gethostname())}:\d+"), "<host>:<pid>"),
    (re.compile(rf"\b(on|of) {re.escape(socket.gethostname())}\b"), r"\1 <host>"),
    (re.compile(r"\b0x[0-9a-f]{6,}"), "<address>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(rf"{re.escape(tempfile.gettempdir())}/daskt2i-\w+"), "<temporary>"),
    (re.compile(r'"(_diffusers_version|transformers_version)": "[^"]*"'), r'"\1": "<version>"'),
)
"""Text, in this order, after paths."""

PROGRESS = re.compile(r"^(\d[\d,]*/\d[\d,]* rows\b|step \d[\d,]*/)")
"""Lines that tell how far it has come: which ones depends on the clock. The last one in a row is kept."""

NOISE = re.compile(
    r"^[a-z ]+: \d[\d,]*(/| of )\d"  # progress that may end before its last line
    r"|.*(UserWarning: Port \d+ is already in use|Perhaps you already have a cluster|Hosting the HTTP server on port)"
    r"|.*leaked semaphore objects|\s*warnings\.warn\("
)
"""Lines that are there or not, as the clock and other processes on the machine will have it. None is kept."""

TINY = (
    *("scenes.rows=20", "dataset.rows_per_chunk=8", "dataset.precision=fp32", "run.device=cpu"),
    *("train.steps=3", "train.batch=4", "train.validation=4", "train.warmup=0", "train.ema=0.5"),
    *("train.learning_rate=0.02", "train.model.config={block_out_channels: [16, 32, 32]}"),
    *("launch.device=cpu", "launch.precision=fp32", "launch.checkpoint_every=2", "launch.threads=1"),
    *("sample.steps=3", "sample.batch=4", "evaluate.prompts=3", "evaluate.seeds=1"),
    *("vae.steps=2", "vae.batch=4", "vae.validation=4", "vae.warmup=0"),
    "vae.config={block_out_channels: [8, 16], norm_num_groups: 4, latent_channels: 4}",
)
"""The demo, made small."""

COMMANDS = (
    *("", "run", "encode", "train", "train-vae", "sample", "evaluate", "status", "verify", "insights", "estimate"),
    *("suggest", "scenes", "bench", "bench encode", "bench scheduler", "bench read", "bench train", "bench sample"),
)

FAKE = """\
name: fake
dataset:
  source: {class: daskt2i.sources.fake.FakeSource, rows: 20, missing: [3]}
  image: {resolution: 32}
  encoders:
    image: {class: daskt2i.encoders.fake.FakeImageEncoder}
    text: {class: daskt2i.encoders.fake.FakeTextEncoder}
  precision: fp32
  rows_per_chunk: 8
run: {device: cpu, batch: 4}
"""
"""A workflow without weights: most messages need no more."""


class Recording:
    """Commands in one scratch folder, and what is kept of them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.kept: dict[str, Any] = {}
        drop = ("FORCE_COLOR", "PYTHONWARNINGS", "PYTHONPATH")
        given = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith("DASK_")}
        plain = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
        still = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        # Bokeh writes some names into a page in the order of a set.
        same = {"PYTHONHASHSEED": "0", "DASK_CONFIG": str(scratch / "no-dask-config")}
        self.environment = {**given, **plain, **still, **same}

    def command(self, key: str, *arguments: str, sets: tuple[str, ...] = (), names_only: bool = False) -> None:
        """Run it, and keep exit code and both streams.

        Args:
            sets: each becomes a `--set`.
            names_only: of a JSON object keep names without values; of text nothing.
        """
        begun = time.monotonic()
        given = [*arguments, *(word for text in sets for word in ("--set", text))]
        done = subprocess.run(
            [*PROGRAM, *given],
            capture_output=True,
            text=True,
            cwd=self.scratch,
            env=self.environment,
            timeout=600,
            check=False,
            start_new_session=True,
        )
        print(f"{time.monotonic() - begun:5.1f} s  {key}", file=sys.stderr, flush=True)
        self.kept[f"{key}/exit"] = done.returncode
        self.kept[f"{key}/stderr"] = "" if names_only and not done.returncode else self.plain(done.stderr)
        try:
            answer = json.loads(done.stdout) if "--json" in arguments and done.stdout.count("\n") == 1 else None
        except ValueError:
            answer = None
        if answer is None:
            self.kept[f"{key}/stdout"] = "" if names_only and not done.returncode else self.plain(done.stdout)
        else:
            self.values(f"{key}/json", answer, names_only)

    def values(self, key: str, found: Any, names_only: bool = False) -> None:
        """A JSON value, one key for each value in it, and the order of its names."""
        for name, value in flat(found):
            self.kept[f"{key}:{name}"] = VARIED if names_only or VARIES.search(name) else self.value(value)
        if isinstance(found, dict):
            self.kept[f"{key}:(order)"] = list(found)

    def value(self, value: Any) -> Any:
        return self.plain(value) if isinstance(value, str) else value

    def plain(self, text: str) -> str:
        """Without what varies."""
        text = text.replace(str(self.scratch), "<scratch>").replace(str(REPOSITORY), "<repository>")
        text = text.replace(sys.prefix, "<python>")
        for pattern, shown in TEXT:
            text = pattern.sub(shown, text)
        lines = [line.rstrip() for line in text.splitlines() if not NOISE.match(line)]
        pairs = zip(lines, [*lines[1:], ""], strict=False)
        return "\n".join(a for a, b in pairs if not (PROGRESS.match(a) and PROGRESS.match(b)))

    def folder(self, key: str, name: str, names_only: tuple[str, ...] = ()) -> None:
        """Every file in a folder of the scratch folder.

        Args:
            names_only: beginnings of file names of which names of figures are kept alone.
        """
        root = self.scratch / name
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            inside = path.relative_to(root).as_posix()
            inside = re.sub(r"events\.out\.tfevents\.\S+", "events", inside)
            bare = any(inside.startswith(start) for start in names_only)
            self.file(f"{key}/{inside}", path, bare)

    def file(self, key: str, path: Path, bare: bool) -> None:
        kind = path.suffix
        bare = bare or path.name in ("daskt2i-run.json", "events.jsonl")  # a random number for each folder; times
        if path.name.startswith("events.out."):
            self.kept[key] = [*self.kept.get(key, []), *events(path)]
        elif bare and kind == ".json":
            self.values(key, json.loads(path.read_bytes()), names_only=True)
        elif bare:
            self.kept[key] = "there"
        elif path.name == "manifest.parquet":  # and the other by its bytes alone
            import pyarrow.parquet as pq

            self.kept[key] = digest(path.read_bytes())
            table = pq.read_table(path)
            self.kept[f"{key}:(schema)"] = [f"{field.name} {field.type} {field.nullable}" for field in table.schema]
            self.kept |= {f"{key}:{number}": line for number, line in enumerate(table.to_pylist())}
        elif kind == ".json" and ".zarr/" not in key and path.stat().st_size < 20_000:
            text = path.read_text(encoding="utf-8")
            self.values(key, json.loads(text))
            # How it is written: order, indents, escapes. Numbers aside, for some of them are times.
            form = re.sub(r"\d+(\.\d+)?(e-?\d+)?", "0", self.plain(text))
            self.kept[f"{key}:(form)"] = digest(form.encode())
        elif kind == ".jsonl":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                self.values(f"{key}:{number}", json.loads(line))
        elif kind == ".safetensors":
            self.kept[key] = digest(path.read_bytes())
            self.kept |= {f"{key}:{name}": value for name, value in tensors(path)}
        elif kind in (".yaml", ".csv", ".txt"):
            self.kept[key] = self.plain(path.read_text(encoding="utf-8"))
        elif kind == ".html":
            self.kept[key] = digest(self.plain(path.read_text(encoding="utf-8")).encode())
        else:
            self.kept[key] = digest(path.read_bytes())


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values inside a JSON value, with their names."""
    if not value or not isinstance(value, dict | list):
        yield name, value
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from flat(one, f"{name}.{key}" if name else str(key))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Type, shape and SHA-256 of each tensor in a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    begun = 8 + length
    for name, about in json.loads(data[8:begun]).items():
        if name == "__metadata__":
            yield name, json.dumps(about)
        else:
            first, last = about["data_offsets"]
            yield name, f"{about['dtype']} {about['shape']} {digest(data[begun + first : begun + last])}"


def events(path: Path) -> list[str]:
    """Step, name and value of each figure in a file of TensorBoard's."""
    from tensorboard.compat.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [f"{event.step} {value.tag} {value.simple_value:.9g}" for value in event.summary.value]
        data = data[16 + length :]
    return found


# Cases


def helps(recording: Recording) -> None:
    for name in COMMANDS:
        recording.command(f"help/{name or 'top'}", *name.split(), "--help")
    recording.command("help/version", "--version", names_only=True)


def demo(recording: Recording) -> None:
    """Encode the small demo in this process and on Dask workers; the ways to look at it."""
    base = ("--out", "demo")
    here = (*base, "--scheduler", "serial")
    recording.command("demo/plan-json", "encode", *here, "--dry-run", "--json", sets=TINY)
    recording.command("demo/encode", "encode", *here, "--json", sets=TINY)
    recording.folder("demo/folder", "demo")
    recording.command("demo/plan", "encode", *here, "--dry-run", sets=TINY)
    recording.command("demo/again", "encode", *here, sets=TINY)
    recording.command("demo/again-json", "encode", *here, "--json", sets=TINY)
    for name in ("status", "verify"):
        recording.command(f"demo/{name}-json", name, *base, "--json")
        recording.command(f"demo/{name}", name, *base)
    recording.command("demo/suggest", "suggest", "red", *base)
    recording.command("demo/suggest-json", "suggest", "a blue st", *base, "--count", "3", "--json")


def damage(recording: Recording) -> None:
    """A shard with another byte, and a receipt that is gone: what is said, and what encode makes of it."""
    copy(recording, "demo", "damaged")
    shard = recording.scratch / "damaged" / "latents.zarr" / "latent_mean" / "c.1.0.0.0"
    found = shard.read_bytes()
    shard.write_bytes(found[:-9] + bytes([found[-9] ^ 1]) + found[-8:])
    (recording.scratch / "damaged" / "receipts" / "chunk-0000002.json").unlink()
    base = ("--out", "damaged")
    recording.command("damage/status-json", "status", *base, "--json")
    recording.command("damage/status", "status", *base)
    recording.command("damage/verify", "verify", *base)
    recording.command("damage/train", "train", *base, "--scheduler", "multiprocessing:1", sets=TINY)
    recording.command("damage/repair", "encode", *base, "--scheduler", "serial", sets=TINY)
    recording.folder("damage/folder", "damaged")


def local(recording: Recording) -> None:
    """The small demo on a Dask cluster of two workers; then a model, trained by two ranks on its workers."""
    here = ("--out", "local", "--scheduler", "local:2")
    recording.command("local/encode", "encode", *here, "--json", sets=TINY)
    recording.folder("local/folder", "local")
    recording.command("local/run-plan", "run", *here, "--dry-run", sets=TINY)
    sets = (*TINY, 'sample.prompts=["a red circle"]')
    recording.command("local/run", "run", *here, sets=sets)
    recording.folder("local/run-folder", "local")


def train(recording: Recording) -> None:
    """Three steps; nothing to do; from a checkpoint on; more steps. Then pictures, and how good they are."""
    copy(recording, "demo", "trained")
    here = ("--out", "trained", "--scheduler", "multiprocessing:1")
    recording.command("train/plan", "train", *here, "--dry-run", sets=TINY)
    recording.command("train/plan-json", "train", *here, "--dry-run", "--json", sets=TINY)
    recording.command("train/train", "train", *here, "--json", sets=TINY)
    recording.folder("train/folder", "trained")
    recording.command("train/again", "train", *here, sets=TINY)
    recording.command("train/sample-json", "sample", *here, "--prompt", "a red circle", "--json", sets=TINY)
    recording.command(
        "train/sample", "sample", *here, "--prompt", "a blue star", "--count", "2", "--seed", "5", sets=TINY
    )
    recording.command("train/sample-ddim", "sample", *here, "--sampler", "ddim", "--json", sets=TINY)
    recording.command("train/evaluate-json", "evaluate", *here, "--json", sets=TINY)
    recording.folder("train/sampled", "trained/samples")
    recording.folder("train/reports", "trained/reports")
    for path in (recording.scratch / "trained" / "train" / "checkpoints").glob("step-0000003.*"):
        path.unlink()
    shutil.rmtree(recording.scratch / "trained" / "pipeline")
    recording.command("train/resume", "train", *here, sets=TINY)
    recording.folder("train/resumed", "trained/train")
    recording.folder("train/resumed-pipeline", "trained/pipeline")
    recording.command("train/more", "train", *here, "--json", sets=(*TINY, "train.steps=5"))
    recording.folder("train/more-folder", "trained/train")
    adam = (
        "train.optimiser=adamw",
        "train.objective=v",
        "launch.gradient_accumulation_steps=2",
        "launch.gradient_checkpointing=true",
    )
    copy(recording, "demo", "other")
    other = ("--out", "other", "--scheduler", "multiprocessing:1")
    recording.command("train/other", "train", *other, "--json", sets=(*TINY, *adam, "train.steps=2"))
    recording.folder("train/other-folder", "other/train")


def vae(recording: Recording) -> None:
    """An autoencoder, trained for two steps on the scenes."""
    copy(recording, "demo", "vae")
    here = ("--out", "vae", "--scheduler", "multiprocessing:1")
    recording.command("vae/train", "train-vae", *here, "--json", sets=TINY)
    recording.folder("vae/folder", "vae/train-vae")
    recording.folder("vae/made", "vae/vae")


def coco(recording: Recording) -> None:
    """Photographs: encoded, chosen by an expression, reported on; and the set whose rows are wrong."""
    if not (DATA / "coco-mini").is_dir():
        print("left out: needs ../shared/data/coco-mini beside the checkout", file=sys.stderr)
        return
    first(24, DATA / "coco-mini", recording.scratch / "coco")
    data = ("--images", "coco/images", "--captions", "coco/captions.json", "--scheduler", "serial")
    sets = (*TINY, "dataset.encoders.text.max_tokens=77")
    recording.command("coco/encode", "encode", *data, "--out", "coco-run", "--json", sets=sets)
    recording.folder("coco/folder", "coco-run")
    where = (*data, "--out", "coco-where", "--where", "people and not duplicate")
    recording.command("coco/where-plan", "encode", *where, "--dry-run", sets=sets)
    recording.command("coco/where", "encode", *where, sets=sets)
    recording.command("coco/where-json", "encode", *where, "--json", sets=sets)
    recording.command("coco/where-status", "status", "--out", "coco-where", "--json")
    recording.folder("coco/where-folder", "coco-where")
    recording.command("coco/insights-json", "insights", *data, "--out", "coco-report", "--json", sets=sets)
    recording.command("coco/insights", "insights", *data, "--out", "coco-report", "--top", "5", sets=sets)
    recording.folder("coco/report", "coco-report")
    if not (DATA / "hostile").is_dir():
        print("left out: needs ../shared/data/hostile beside the checkout", file=sys.stderr)
        return
    shutil.copytree(DATA / "hostile", recording.scratch / "hostile", symlinks=True)
    wrong = ("--images", "hostile/images", "--captions", "hostile/captions.json", "--scheduler", "serial")
    recording.command("coco/hostile", "encode", *wrong, "--out", "hostile-run", sets=TINY)
    recording.folder("coco/hostile-folder", "hostile-run")
    recording.command("coco/hostile-status", "status", "--out", "hostile-run")


def reports(recording: Recording) -> None:
    """Insights of the scenes, drawn scenes, and what is measured: of that, names of figures alone."""
    recording.command(
        "reports/insights", "insights", "--out", "demo", "--scheduler", "serial", "--no-tokens", "--json", sets=TINY
    )
    recording.folder("reports/insights-folder", "demo/reports")
    recording.command("reports/scenes-json", "scenes", "--rows", "3", "--out", "drawn", "--json")
    recording.command("reports/scenes", "scenes", "--rows", "3", "--out", "drawn-text", "--seed", "4", "--shapes", "1")
    recording.folder("reports/drawn", "drawn")
    recording.folder("reports/drawn-text", "drawn-text")
    recording.command(
        *("reports/estimate", "estimate", "--out", "estimated", "--scheduler", "serial", "--rows", "8", "--json"),
        sets=TINY,
        names_only=True,
    )
    recording.folder("reports/estimated", "estimated", names_only=("reports/", "receipts/"))
    tiny = ("--shapes", "demo", "--readers", "1", "--windows", "2", "--from", "memory", "--repeats", "1")
    recording.command("reports/bench-read", "bench", "read", *tiny, "--out", "bench", "--json", names_only=True)
    (recording.scratch / "bench.yaml").write_text(FAKE, encoding="utf-8")
    once = ("--schedulers", "serial", "--workers", "1", "--rows", "8", "--repeats", "1", "--out", "bench", "--json")
    recording.command("reports/bench-encode", "bench", "encode", "--workflow", "bench.yaml", *once, names_only=True)
    recording.folder("reports/bench", "bench/reports", names_only=("bench-",))


def messages(recording: Recording) -> None:
    """Wrong commands: one sentence each, and an exit code."""
    scratch = recording.scratch
    write = {
        "fake.yaml": FAKE,
        "no-module.yaml": FAKE.replace("daskt2i.sources.fake.FakeSource", "nowhere.Source"),
        "no-class.yaml": FAKE.replace("FakeImageEncoder", "NoSuchEncoder"),
        "no-path.yaml": FAKE.replace("daskt2i.encoders.fake.FakeTextEncoder", "FakeTextEncoder"),
        "other-kind.yaml": FAKE.replace("FakeTextEncoder", "FakeImageEncoder"),
        "no-argument.yaml": FAKE.replace("rows: 20", "rows: 20, colour: red"),
        "no-dataset.yaml": "name: empty\n",
        "broken.yaml": "name: [\n",
        "wrong-cluster.yaml": "cluster: distributed.NoSuchCluster\n",
        "odd-cluster.yaml": "cluster: distributed.LocalCluster\ncolour: red\n",
        "captions.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
        "missing.json": '{"images": [{"id": 1, "file_name": "a.jpg"}],'
        ' "annotations": [{"image_id": 1, "caption": "a cat"}]}',
        "list.json": "[1, 2]",
        "text.json": "no JSON",
    }
    for name, text in write.items():
        (scratch / name).write_text(text, encoding="utf-8")
    (scratch / "empty").mkdir()
    fake = ("--workflow", "fake.yaml", "--out", "fake")
    alone = ("--scheduler", "serial")
    recording.command("messages/fake", "encode", *fake, *alone)
    recording.folder("messages/fake-folder", "fake")
    copy(recording, "fake", "no-metadata")
    (scratch / "no-metadata" / "latents.zarr" / "zarr.json").write_text("{")
    copy(recording, "fake", "torn")
    (scratch / "torn" / "receipts" / "chunk-0000001.json").write_text("{")

    def wrong(name: str, *arguments: str, sets: tuple[str, ...] = ()) -> None:
        recording.command(f"messages/{name}", *arguments, sets=sets)

    wrong("unknown-command", "paint")
    wrong("unknown-option", "encode", "--colour")
    wrong("unknown-scheduler", "encode", "--scheduler", "nowhere")
    wrong("two-serial", "encode", "--scheduler", "serial:2")
    wrong("no-workers", "encode", "--scheduler", "local:0")
    wrong("wrong-cluster", "encode", "--workflow", "fake.yaml", "--out", "m8", "--scheduler", "./wrong-cluster.yaml")
    wrong("odd-cluster", "encode", *fake, "--scheduler", "./odd-cluster.yaml")
    wrong("images-alone", "encode", "--images", "empty")
    wrong("no-captions", "encode", "--images", "empty", "--captions", "nowhere.json", *alone)
    wrong("no-images", "encode", "--images", "nowhere", "--captions", "captions.json", *alone)
    wrong("images-missing", "encode", "--images", "empty", "--captions", "missing.json", "--out", "m1", *alone)
    wrong("not-coco", "encode", "--images", "empty", "--captions", "list.json", "--out", "m2", *alone)
    wrong("not-json", "encode", "--images", "empty", "--captions", "text.json", "--out", "m3", *alone)
    wrong("unknown-key", "encode", sets=("run.bach=4",))
    wrong("unknown-section", "encode", sets=("colours.red=4",))
    wrong("no-value", "encode", sets=("run.batch",))
    wrong("wrong-kind", "train", sets=("train.steps=none",))
    wrong("wrong-choice", "train", sets=("train.objective=guess",))
    wrong("no-workflow", "encode", "--workflow", "nowhere")
    wrong("no-file", "encode", "--workflow", "nowhere.yaml")
    for name in ("broken", "no-dataset", "no-module", "no-class", "no-path", "other-kind", "no-argument"):
        wrong(name, "encode", "--workflow", f"{name}.yaml", "--out", "m4", *alone)
    for name in ("status", "verify"):
        wrong(f"{name}-of-nothing", name, "--out", "nowhere")
    for name in ("train", "sample", "evaluate"):
        wrong(f"{name}-of-nothing", name, "--out", "nowhere", "--scheduler", "multiprocessing:1")
    wrong("suggest-of-nothing", "suggest", "red", "--out", "nowhere")
    wrong("other-settings", "encode", *fake, *alone, sets=("dataset.image.resolution=64",))
    wrong("other-encoder", "encode", "--out", "fake", *alone, sets=TINY)
    wrong("damaged-metadata", "verify", "--out", "no-metadata")
    wrong("torn-receipt", "verify", "--out", "torn")
    wrong("train-on-fakes", "train", "--workflow", "fake.yaml", "--out", "fake", "--scheduler", "multiprocessing:1")
    wrong("sample-untrained", "sample", "--out", "demo", "--scheduler", "multiprocessing:1")
    wrong("evaluate-untrained", "evaluate", "--out", "demo", "--scheduler", "multiprocessing:1")
    wrong("no-model", "encode", "--out", "m5", *alone, sets=(*TINY, "dataset.encoders.image.model=nowhere"))
    wrong("no-gpu", "encode", "--out", "m6", *alone, sets=(*TINY, "run.device=cuda:7"))
    wrong("wrong-where", "encode", "--out", "m7", *alone, "--where", "people and (", sets=TINY)
    wrong("unknown-fact", "encode", "--out", "m7", *alone, "--where", "elephants > 3", sets=TINY)
    wrong(
        "wrong-cache", "train", "--out", "demo", "--scheduler", "multiprocessing:1", sets=(*TINY, "launch.cache=much")
    )
    wrong("no-rows", "scenes", "--rows", "0")
    wrong("out-is-a-file", "scenes", "--rows", "2", "--out", "captions.json")
    wrong("estimate-device", "estimate", "--devices", "gpu")
    wrong("bench-workers", "bench", "encode", "--workers", "none")
    wrong("bench-origin", "bench", "read", "--from", "nowhere")
    wrong("no-prompts", "sample", "--prompts", "nowhere.txt")
    recording.kept["messages/folders"] = sorted(path.name for path in scratch.iterdir())


CASES: tuple[Callable[[Recording], None], ...] = (helps, demo, damage, reports, messages, train, vae, local, coco)
"""In this order: `demo` makes the folder that later ones copy."""


def copy(recording: Recording, name: str, other: str) -> None:
    shutil.copytree(recording.scratch / name, recording.scratch / other)


def first(rows: int, data: Path, folder: Path) -> None:
    """The first rows of a COCO folder, as a COCO folder."""
    listed = json.loads((data / "captions.json").read_text(encoding="utf-8"))
    images = listed["images"][:rows]
    kept = {image["id"] for image in images}
    annotations = [one for one in listed["annotations"] if one["image_id"] in kept]
    (folder / "images").mkdir(parents=True)
    for image in images:
        shutil.copy(data / "images" / image["file_name"], folder / "images")
    (folder / "captions.json").write_text(json.dumps({**listed, "images": images, "annotations": annotations}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what the command line does.")
    parser.add_argument("folder", type=Path, help="where golden.json is written")
    parser.add_argument("--keep", action="store_true", help="keep the run folders too, in FOLDER/runs")
    parser.add_argument("--only", nargs="+", default=[], help="cases by name; demo always runs")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    # The same name each time: lines break at the same places, and what hashes a path gives the same.
    scratch = Path(tempfile.gettempdir()).resolve() / "golden-scratch"
    try:
        scratch.mkdir()
    except FileExistsError:
        raise SystemExit(f"{scratch} is there: another recording goes on, or was killed; then remove it.") from None
    recording = Recording(scratch)
    begun = time.monotonic()
    try:
        for case in CASES:
            if given.only and case.__name__ not in given.only and case is not demo:
                continue
            case(recording)
        text = json.dumps(recording.kept, indent=1, ensure_ascii=False)
        (given.folder / "golden.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        if given.keep:
            shutil.copytree(scratch, given.folder / "runs", symlinks=True)
    finally:
        shutil.rmtree(scratch)
    print(f"{len(recording.kept)} values in {time.monotonic() - begun:.0f} s: {given.folder / 'golden.json'}")


if __name__ == "__main__":
    main()
