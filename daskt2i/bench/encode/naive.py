"""The baseline, as in the original study: a pool of processes that sends each row's result back as a pickle.

    Pool(N): torch's default number of threads in each process, fp32, contiguous tensors,
    one image at a time, every caption padded to the full length and encoded, results collected in the parent.

The models run on the device of the workflow, with torch's defaults for it: on a GPU, cuDNN computes fp32 convolutions
in TF32.

Covers: the same rows, weights and pixels as `encode`, with the plain models of diffusers and transformers.
Does not cover: anything that `encode` adds (store, receipts, gates, reasons of rejection). Processes are spawned, not
forked: torch's threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from daskt2i.bench.encode.rows import Part
from daskt2i.bench.measured import BenchTask, Measured
from daskt2i.bench.meter import Meter
from daskt2i.config.settings import Workflow
from daskt2i.deploy.child_processes import block_sigint
from daskt2i.encode.prepare import planned_device
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import ConfigError, ExecutorError, RowRejected
from daskt2i.images import read as images
from daskt2i.machine.machine import peak_bytes
from daskt2i.protocols import ImageEncoder, Source
from daskt2i.protocols import TextEncoder as AnyTextEncoder
from daskt2i.types import Pixels, Row, Runtime

TIMEOUT = 600.0
"""Maximum seconds for the pool to load its models."""

T = TypeVar("T")
R = TypeVar("R")
Result = tuple[bool, int, dict[str, Any], dict[str, float], int, int]
"""accepted, captions, arrays, seconds by stage, peak bytes of the process, its torch threads."""


def require_plain(workflow: Workflow, part: Part) -> None:
    """Refuse encoders other than `VaeEncoder` and `TextEncoder`.

    Raises:
        ConfigError: the workflow names another class.
    """
    encoders = workflow.dataset.encoders
    wanted = {"vae": (encoders.image, VaeEncoder), "text": (encoders.text, TextEncoder)}
    for name, (component, kind) in wanted.items():
        if part in (name, "both") and component.class_path != f"{kind.__module__}.{kind.__name__}":
            raise ConfigError(
                f"The scheduler naive needs a {kind.__name__}, but the workflow names {component.class_path}. Nothing "
                "was measured. Leave naive out (schedulers)."
            )


class Naive:
    """The models of one process of the pool.

    Args:
        workflow: a workflow with encoders that `require_plain` accepts.
        part: the encoders that are used.
    """

    def __init__(self, workflow: Workflow, part: Part) -> None:
        import torch

        dataset = workflow.dataset
        self.resolution, self.part = dataset.image.resolution, part
        self.limits = images.Limits(min_side=dataset.image.min_side, max_pixels=dataset.image.max_pixels)
        self.source: Source = dataset.source.build(Source, "dataset.source")
        self.vae: Any = None
        self.text: Any = None
        self.tokenizer: Any = None
        self.length = 0
        self.threads = torch.get_num_threads()
        wanted = workflow.run.device
        self.device = planned_device(wanted) if wanted == "auto" else wanted
        runtime = Runtime(self.device, "fp32", self.threads)
        if part != "text":
            image: VaeEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
            self.vae = plain_module(image, runtime).to(memory_format=torch.contiguous_format)
        if part != "vae":
            import transformers

            text: TextEncoder = dataset.encoders.text.build(AnyTextEncoder, "dataset.encoders.text")
            self.text = plain_module(text, runtime)
            self.length = int(text.info().attributes["max_tokens"])
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(  # a folder on this machine  # nosec B615
                str(text.tokenizer_folder()), trust_remote_code=False, local_files_only=True
            )

    def encode(self, row: Row) -> Result:
        """Encode one row: its latent's mean and std, and the states of all its captions, in fp32."""
        import torch

        seconds = {"read": 0.0, "decode": 0.0, "encode_image": 0.0, "encode_text": 0.0}
        made: dict[str, Any] = {"row": row.index}
        begun = time.perf_counter()
        try:
            if row.reason is not None:
                raise RowRejected(row.reason, row.detail)
            with torch.no_grad():
                if self.vae is not None:
                    made |= self._image(row, seconds)
                if self.text is not None:
                    made["states"] = self._captions(row.captions, seconds)
        except RowRejected:
            return False, 0, {}, {**seconds, "total": time.perf_counter() - begun}, peak_bytes(), self.threads
        seconds["total"] = time.perf_counter() - begun
        return True, len(row.captions), made, seconds, peak_bytes(), self.threads

    def _image(self, row: Row, seconds: dict[str, float]) -> dict[str, Any]:
        begun = time.perf_counter()
        data = self.source.read(row)
        read = time.perf_counter()
        pixels = images.read(data, self.resolution, self.limits).pixels
        decoded = time.perf_counter()
        made = image_latents(self.vae, pixels, self.device)
        done = time.perf_counter()
        seconds |= {"read": read - begun, "decode": decoded - read, "encode_image": done - decoded}
        return made

    def _captions(self, captions: Sequence[str], seconds: dict[str, float]) -> list[Any]:
        begun = time.perf_counter()
        made = [caption_states(self.text, self.tokenizer, self.length, caption, self.device) for caption in captions]
        seconds["encode_text"] = time.perf_counter() - begun
        return made


def plain_module(encoder: VaeEncoder | TextEncoder, runtime: Runtime) -> Any:
    """The library's model inside an encoder of daskt2i, with torch's own precision of fp32 products on a GPU."""
    import torch

    if isinstance(encoder, VaeEncoder):
        return encoder.plain(runtime)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    encoder.load(runtime)  # switches TF32 off for fp32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    return encoder.module


def image_latents(vae: Any, pixels: Pixels, device: str) -> dict[str, Any]:
    """The latent's mean and std of one image `uint8[height, width, 3]`, in fp32, as arrays on the CPU."""
    import torch

    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).contiguous().float() / 127.5 - 1.0
    out = vae.encode(tensor.to(device))
    if hasattr(out, "latent_dist"):
        return {"mean": out.latent_dist.mean.cpu().numpy(), "std": out.latent_dist.std.cpu().numpy()}
    return {"mean": out.latents.cpu().numpy()}


def caption_states(text: Any, tokenizer: Any, length: int, caption: str, device: str) -> Any:
    """The states of one caption, padded to the full length, in fp32, as an array on the CPU."""
    given = tokenizer(caption, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    masked = "clip" not in str(text.config.model_type)
    kept = {k: v.to(device) for k, v in given.items() if k == "input_ids" or (k == "attention_mask" and masked)}
    return text(**kept)[0].cpu().numpy()


_here: Naive | None = None


def _load(workflow: Workflow, part: Part, marks: str) -> None:
    """Load the models in a new process of the pool."""
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here = Naive(workflow, part)
    Path(marks, str(os.getpid())).touch()


def _encode(row: Row) -> Result:
    assert _here is not None
    return _here.encode(row)


def run_naive(task: BenchTask, workflow: Workflow, clock: Callable[[], float] = time.time) -> Measured:
    """Encode all rows like the study, and write the same pickle.

    Raises:
        ConfigError: the workflow's encoders are not those of daskt2i.
        ExecutorError: the pool did not load, or one of its processes was killed.
    """
    folder = Path(task.folder)
    marks = folder / "warm"
    marks.mkdir(parents=True)
    source: Source = workflow.dataset.source.build(Source, "dataset.source")
    rows = source.info().rows
    require_plain(workflow, task.part)
    meter = Meter()
    context = multiprocessing.get_context("spawn")
    with block_sigint():
        pool = context.Pool(task.workers, _load, (workflow, task.part, str(marks)))
    try:
        _await(marks, task.workers, [process.pid for process in pool._pool])  # type: ignore[attr-defined]
        loaded = clock()
        meter.start()
        results = gather(pool, _encode, _rows(source, rows), rows)
        last = clock()
        meter.mark()
        written = _write(folder / "naive.pickle", results)
    finally:
        pool.terminate()
        pool.join()
        meter.close()
    ended = clock()
    stages = {stage: sum(result[3].get(stage, 0.0) for result in results) for stage in results[0][3]}
    return Measured(
        workers=task.workers,
        threads=results[0][5],
        precision="fp32",
        rows=rows,
        accepted=sum(result[0] for result in results),
        rejected=sum(not result[0] for result in results),
        cold=loaded - task.begun,
        steady=last - loaded,
        finish=ended - last,
        cpu=meter.cpu,
        elsewhere=meter.elsewhere,
        stages=stages,
        chunk_seconds=(),
        worker_peak=max(result[4] for result in results),
        driver_peak=peak_bytes(),
        written=written,
        captions=sum(result[1] for result in results),
        distinct=sum(result[1] for result in results),
        batch=1,
        memory=tuple(meter.memory),
    )


def _rows(source: Source, rows: int) -> Iterator[Row]:
    for start in range(0, rows, 1024):
        yield from source.rows(start, min(rows, start + 1024))


def gather(pool: Pool, function: Callable[[T], R], items: Iterable[T], count: int) -> list[R]:
    """The pool's results, in order of completion.

    Raises:
        ExecutorError: a process was killed. The pool itself would start another, and wait for ever for the lost rows.
    """
    processes = list(pool._pool)  # type: ignore[attr-defined]
    coming, results = pool.imap_unordered(function, items), list[R]()
    while len(results) < count:
        try:
            results.append(coming.next(timeout=1))
        except multiprocessing.TimeoutError:
            if not all(process.is_alive() for process in processes):
                raise ExecutorError(
                    f"A process of the naive pool was killed after {len(results)} of {count} rows; memory is the usual "
                    "cause. Earlier measurements are kept. Use fewer workers (workers)."
                ) from None
    return results


def _await(marks: Path, workers: int, pids: Sequence[int]) -> None:
    """Wait until every process has loaded. If one dies, stop: the pool would replace dead processes for ever."""
    deadline = time.monotonic() + TIMEOUT
    while (there := sum(1 for _ in marks.iterdir())) < workers:
        gone = [pid for pid in pids if not _alive(pid)]
        if gone or time.monotonic() > deadline:
            raise ExecutorError(
                f"Only {there} of {workers} processes of the naive pool have loaded their models"
                f"{', and one has died' * bool(gone)}. Nothing was measured. Use fewer workers (workers)."
            )
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _write(path: Path, results: Sequence[Result]) -> int:
    """Write the study's pickle, and return its size in bytes. Nobody reads the file."""
    kept = [{k: np.asarray(v) if k != "row" else v for k, v in result[2].items()} for result in results if result[0]]
    with path.open("wb") as file:
        pickle.dump(kept, file)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size
