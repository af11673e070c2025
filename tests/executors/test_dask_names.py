"""Names of our tasks on Dask's dashboard, and where the dashboard says that their time goes."""

from __future__ import annotations

import functools

import pytest
from dask.utils import key_split

from daskt2i.encode.model_cache import inspect
from daskt2i.encode.worker import encode_chunk, try_rows
from daskt2i.executors.dask_names import key_of, labelled
from daskt2i.sample.worker import draw_part


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (encode_chunk, "encode-chunk"),
        (functools.partial(functools.partial(try_rows, None)), "try-rows"),
        (functools.partial(inspect, precision="auto"), "inspect"),
        (draw_part, "draw-part"),
        (lambda: None, "lambda"),
    ],
)
def test_dask_groups_tasks_by_a_readable_name(work: object, name: str) -> None:
    keys = {key_of(work) for _ in range(50)}  # type: ignore[arg-type]
    assert len(keys) == 50
    assert {key_split(key) for key in keys} == {name}


def test_the_labels_share_the_time_of_the_tasks_thread() -> None:
    seconds = {"total": 10.0, "load": 1.0, "wait": 2.0, "read": 3.0, "decode": 9.0, "encode_image": 4.0}
    seconds |= {"encode_text": 1.0, "gate": 0.5, "write": 1.5}
    found = dict(labelled(seconds))
    assert found == {"load": 1.0, "model": 5.0, "gate": 0.5, "write": 1.5, "read": 0.5, "decode": 1.5}
    assert sum(found.values()) == pytest.approx(10.0)
    assert dict(labelled({})) == {}
    assert dict(labelled({"wait": 1.0})) == {"read": 1.0, "decode": 0.0}
