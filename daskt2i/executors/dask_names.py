"""What the dashboard calls the tasks of daskt2i: prefixes of keys, spans, labels of Fine Performance Metrics.

Covers: `encode-chunk` in the task stream and in progress bars; a span for each stage; seconds by part.
Does not cover: running tasks (`dask`), pages of our own (`dashboard`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import dask
from distributed import span
from distributed.metrics import context_meter

_STAGES = {"encode": "encode", "try": "encode", "inspect": "encode", "draw": "sample", "survey": "insights"}
"""First word of the name of a function -> the stage whose work it is."""

_PARTS = {
    "load": ("load",),
    "model": ("encode_image", "encode_text"),
    "gate": ("gate",),
    "write": ("write",),
}
"""Label on the dashboard -> stages of a receipt in the task's own thread. Reading and decoding have threads of their
own: what counts of them is the time for which the task waits."""


def key_of(work: Callable[..., Any]) -> str:
    """A new key for a task. Dask groups tasks by what comes before the last part: `encode-chunk`."""
    return f"{_name(work).strip('_').replace('_', '-') or 'work'}-{uuid4().hex}"


def span_of(work: Callable[..., Any]) -> dict[str, Any]:
    """Annotations that put tasks into a new span of their stage: `with dask.annotate(**span_of(work))`.

    The scheduler keeps each span for ever, so make one for a stage, and not for each task.
    """
    name = _name(work).strip("_")
    with span(f"daskt2i-{_STAGES.get(name.partition('_')[0], name or 'work')}"):
        return dict(dask.get_annotations())


def measure(seconds: Mapping[str, float]) -> None:
    """Tell Dask where the seconds of the running task went. Seconds by stage as in `types.Receipt`."""
    for label, value in labelled(seconds):
        context_meter.digest_metric(label, value, "seconds")


def labelled(seconds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Label -> seconds of the task's own thread. The wait for pictures is divided into `read` and `decode`, by the time
    that each took in the threads beside it."""
    for label, stages in _PARTS.items():
        if any(stage in seconds for stage in stages):
            yield label, sum(seconds.get(stage, 0.0) for stage in stages)
    if (wait := seconds.get("wait", 0.0)) > 0.0:
        read, decode = seconds.get("read", 0.0), seconds.get("decode", 0.0)
        share = read / (read + decode) if read + decode > 0.0 else 1.0
        yield "read", wait * share
        yield "decode", wait * (1.0 - share)


def _name(work: Callable[..., Any]) -> str:
    while isinstance(work, functools.partial):
        work = work.func
    return str(getattr(work, "__name__", ""))
