"""The plan of a run: chunks, memory, disk, and workers."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from typing import Any

import pytest

from daskt2i.errors import PlanError
from daskt2i.plan import (
    GIB,
    MIB,
    ChunkGrid,
    Requirements,
    WorkerLayout,
    array_bytes,
    choose_batch,
    divide_machine,
    estimate_requirements,
)
from daskt2i.types import ArraySpec, Chunk, EncoderInfo, SourceInfo

TRAIN2014_IMAGES = 82_783
TRAIN2014_CAPTIONS = 414_113


def source_of(rows: int, captions: int | None = None, slots: int = 5) -> SourceInfo:
    """A COCO-like source: 52 characters a caption."""
    count = 5 * rows if captions is None else captions
    return SourceInfo(rows, slots, count, 52 * count, 0, 0, {}, "")


def image_of(side: int = 32, item_bytes: int = 600 * MIB) -> EncoderInfo:
    """The VAE of Stable Diffusion 1.5 at 8 x `side` pixels."""
    arrays = tuple(
        ArraySpec(name, ("channel", "y", "x"), (4, side, side), "float16", "nan")
        for name in ("latent_mean", "latent_std")
    )
    return EncoderInfo(arrays, "sha256:0", {}, False, 335 * 10**6, item_bytes)


def text_of(pad: str = "length") -> EncoderInfo:
    """CLIP ViT-L/14."""
    arrays = (
        ArraySpec("text_states", ("token", "feature"), (77, 768), "float16", "nan"),
        ArraySpec("text_mask", ("token",), (77,), "bool", False),
        ArraySpec("text_truncated", (), (), "bool", False),
        ArraySpec("text_pooled", ("feature",), (768,), "float16", "nan"),
    )
    return EncoderInfo(arrays, "sha256:1", {"pad": pad}, False, 492 * 10**6, 12 * MIB)


def sd15(rows: int = TRAIN2014_IMAGES, **changes: Any) -> Requirements:
    settings: dict[str, Any] = {
        "resolution": 256, "rows_per_chunk": 64, "precision": "bf16", "batch": 1, "text_batch": 32,
    }  # fmt: skip
    image = changes.pop("image", None) or image_of(changes.pop("side", 32))
    text = text_of(changes.pop("pad", "length"))
    source = changes.pop("source", None) or source_of(rows)
    return estimate_requirements(source, image, text, **{**settings, **changes})


# Chunks


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
@pytest.mark.parametrize("per_chunk", [1, 2, 7, 8, 64, 65536])
def test_chunks_cover_every_row_once_in_order(rows: int, per_chunk: int) -> None:
    plan = ChunkGrid(rows, per_chunk)
    chunks = list(plan)
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(rows))
    assert [chunk.index for chunk in chunks] == list(range(len(plan)))
    assert {len(chunk) for chunk in chunks[:-1]} <= {per_chunk}
    assert 1 <= len(chunks[-1]) <= per_chunk
    assert all(chunk.start == chunk.index * per_chunk and chunk.rows == () for chunk in chunks)


def test_a_plan_is_a_sequence() -> None:
    plan = ChunkGrid(20, 8)
    assert plan[0] == Chunk(0, 0, 8)
    assert plan[-1] == plan[2] == Chunk(2, 16, 20)
    assert list(plan[1:]) == [plan[1], plan[2]]
    assert list(reversed(plan)) == [plan[2], plan[1], plan[0]]
    assert plan[1] in plan
    assert list(ChunkGrid(0, 8)) == []
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            plan[wrong]


def test_a_plan_of_a_million_chunks_is_two_numbers() -> None:
    plan = ChunkGrid(64_000_000, 64)
    assert len(plan) == 1_000_000
    assert sys.getsizeof(plan) < 200
    assert len(pickle.dumps(plan)) < 500
    assert plan[999_999] == Chunk(999_999, 63_999_936, 64_000_000)


# Memory and disk


def test_a_model_that_fp16_computes_in_fp32_is_counted_in_fp32() -> None:
    asks = dataclasses.replace(image_of(), upcast=True)
    half, whole, bf16 = (
        sd15(image=image, precision=precision).worker_memory
        for image, precision in ((image_of(), "fp16"), (asks, "fp16"), (asks, "bf16"))
    )
    assert half == bf16
    assert whole - half == (asks.weight_bytes + 1.5 * asks.item_bytes) / 2


def test_the_latents_of_coco_take_16_kib_an_image() -> None:
    assert sd15().latents_disk == TRAIN2014_IMAGES * 16 * 1024


def test_the_text_of_coco_takes_a_fifth_of_what_padding_would() -> None:
    """An image has five captions of 13.7 tokens (1.5 KiB each) and a pooled state. With padding it takes 591 KB."""
    lean, padded = sd15().text_disk / TRAIN2014_IMAGES, sd15(pad="full").text_disk / TRAIN2014_IMAGES
    assert 100_000 < lean < 125_000
    assert 591_000 < padded < 610_000


def test_the_store_of_coco_is_well_below_the_37_gb_that_filled_a_quota() -> None:
    assert 9 * GIB < sd15(source=source_of(TRAIN2014_IMAGES, TRAIN2014_CAPTIONS)).disk < 12 * GIB


def test_long_captions_take_no_more_than_their_slots() -> None:
    novel = SourceInfo(10, 5, 50, 50 * 10_000, 0, 0, {}, "")
    assert sd15(source=novel).text_disk <= sd15(10, pad="full").text_disk + novel.caption_characters


def test_a_worker_for_stable_diffusion_needs_one_to_four_gib() -> None:
    assert 1 * GIB < sd15().worker_memory < 4 * GIB


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"batch": 1}, {"batch": 8}),
        ({"rows_per_chunk": 16}, {"rows_per_chunk": 256}),
        ({"precision": "bf16"}, {"precision": "fp32"}),
        ({"precision": "fp16"}, {"precision": "auto"}),
        ({"resolution": 256}, {"resolution": 1024}),
        ({"side": 32}, {"side": 64}),
        ({"text_batch": 32}, {"text_batch": 512}),
        ({"source": source_of(1000, slots=5)}, {"source": source_of(1000, slots=20)}),
    ],
    ids=["batch", "rows", "precision", "auto", "resolution", "side", "text_batch", "slots"],
)
def test_more_of_anything_needs_more_memory(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert sd15(**less).worker_memory < sd15(**more).worker_memory


def test_memory_does_not_grow_with_the_number_of_rows_and_disk_does() -> None:
    small, large = sd15(1_000), sd15(1_000_000)
    assert small.worker_memory == large.worker_memory
    assert small.disk * 1000 == pytest.approx(large.disk, rel=1e-6)


def test_a_source_smaller_than_a_chunk_needs_less_memory() -> None:
    assert sd15(3, rows_per_chunk=65536).worker_memory < sd15(65536, rows_per_chunk=65536).worker_memory


def test_encoders_without_weights_or_states_cost_the_process() -> None:
    nothing = EncoderInfo((ArraySpec("x", (), (), "float16", "nan"),), "none", {}, False, 0, 0)
    found = estimate_requirements(
        source_of(1, 0, 0), nothing, nothing, resolution=8, rows_per_chunk=1, precision="fp32", batch=1, text_batch=1
    )
    assert found.text_disk == 0
    assert found.worker_memory > 0


# Batch


@pytest.mark.parametrize(
    ("item_mib", "device", "batch"),
    [
        (600, "cpu", 1),
        (100, "cpu", 2),
        (1, "cpu", 64),
        (600, "auto", 1),
        (600, "cuda", 6),
        (600, "cuda:1", 6),
        (0, "cpu", 64),
    ],
)
def test_an_automatic_batch_follows_what_one_image_takes(item_mib: int, device: str, batch: int) -> None:
    assert choose_batch(image_of(item_bytes=item_mib * MIB), device) == batch


# Workers and threads


@pytest.mark.parametrize(
    ("asked", "workers", "threads", "reason"),
    [
        ({}, 8, 1, "8 cores allow 8"),
        ({"chunks": 3}, 3, 2, "3 chunks allow 3"),
        ({"chunks": 8}, 8, 1, "8 cores allow 8"),
        ({"chunks": 0}, 1, 8, "one worker"),
        ({"memory": 6 * GIB}, 4, 2, "6 GiB of memory allow 4"),
        ({"threads": 4}, 2, 4, "8 cores allow 2"),
        ({"threads": 16}, 1, 16, "8 cores allow 1"),
        ({"workers": 2}, 2, 4, "the number that you gave"),
        ({"workers": 2, "threads": 1}, 2, 1, "the number that you gave"),
        ({"workers": 10}, 10, 1, "the number that you gave; this machine has 8 cores"),
        ({"cores": 1}, 1, 1, "1 core allows 1"),
    ],
    ids=str,
)
def test_a_machine_is_divided(asked: dict[str, Any], workers: int, threads: int, reason: str) -> None:
    machine: dict[str, Any] = {"cores": 8, "memory": 32 * GIB, "worker_memory": GIB, "chunks": 100}
    found = divide_machine(**{**machine, **asked})
    assert (found.workers, found.threads, found.reason) == (workers, threads, reason)
    assert found.memory_limit * found.workers <= {**machine, **asked}["memory"]
    # Every worker lives below its pause threshold.
    assert found.memory_limit * 0.8 >= GIB


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
@pytest.mark.parametrize("memory_gib", [2, 5, 64, 512])
@pytest.mark.parametrize("chunks", [1, 5, 10_000])
def test_cores_and_memory_are_never_oversubscribed(cores: int, memory_gib: int, chunks: int) -> None:
    found = divide_machine(cores=cores, memory=memory_gib * GIB, worker_memory=GIB, chunks=chunks)
    assert found.workers * found.threads <= cores
    assert found.workers * GIB <= 0.8 * memory_gib * GIB
    assert found.workers <= chunks


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"memory": GIB}, "Make dataset.rows_per_chunk or run.batch smaller"),
        ({"workers": 20}, "Ask for 12 workers"),
        ({"workers": 0}, "at least one is needed"),
        ({"workers": -1}, "at least one is needed"),
    ],
)
def test_too_many_workers_are_refused_and_the_message_says_how_many_fit(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence) as error:
        divide_machine(**{"cores": 8, "memory": 16 * GIB, "worker_memory": GIB, "chunks": 100, **asked})
    assert "Nothing was started" in str(error.value)


def test_dividing_a_machine_gives_a_worker_layout() -> None:
    assert isinstance(divide_machine(cores=2, memory=8 * GIB, worker_memory=GIB, chunks=4), WorkerLayout)


def test_states_laid_out_and_arrays_compressed_are_never_in_memory_together() -> None:
    def info(*sizes: int) -> EncoderInfo:
        arrays = tuple(ArraySpec(f"a{size}", ("x",), (size,), "uint8", 0) for size in sizes)
        return EncoderInfo(arrays, "none", {}, False, 0, 0)

    assert array_bytes(info(1), info(10, 20), slots=3) == 1 + 90 + 91  # all are compressed at once
    assert array_bytes(info(*range(50, 56)), info(1), slots=1) == 316 + (52 + 53 + 54 + 55)
