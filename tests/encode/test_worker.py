"""One chunk on a worker: counts, gates, smaller batches, commit; reading ahead; models are loaded once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.workflows import component, fake_settings, with_parts

from daskt2i.config.settings import Workflow
from daskt2i.encode import model_cache
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.model_cache import Models, inspect, models_for, retry_smaller_batch
from daskt2i.encode.prepare import EncodePlan, prepare
from daskt2i.encode.read_ahead import Care, ReaderCount, Reading, read_row, reading_ahead
from daskt2i.encode.worker import encode_chunk, interruption
from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.errors import (
    AccessRefused,
    ConfigError,
    GateError,
    ImagesMissing,
    ModelError,
    ModelMissing,
    OutOfMemory,
    Reason,
    RowRejected,
    StoreFull,
    TransportFailed,
)
from daskt2i.images import read as images
from daskt2i.images.framing import square
from daskt2i.sources.fake import FakeSource, bitmap
from daskt2i.store.layout import store_arrays
from daskt2i.store.publishing.attempts import Attempt
from daskt2i.store.publishing.publication import Publication, publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, EncoderInfo, Pixels, Receipt, Record, Rejection, Row, Runtime

LIMITS = images.Limits(min_side=8, max_pixels=10**6)
CPU = Runtime("cpu", "fp32", 1)


@pytest.fixture(autouse=True)
def _a_process_without_models() -> Iterator[None]:
    """Reset the state, as if this process had just started."""
    model_cache._held.clear()
    model_cache._loads.clear()
    yield
    model_cache._held.clear()
    model_cache._loads.clear()


def fake_models() -> Models:
    image, text = FakeImageEncoder(), FakeTextEncoder()
    return Models("", FakeSource(), image, text, image.info(32), text.info())


class Bench:
    """A run folder with a store, and the job of a worker."""

    def __init__(self, out: Path, workflow: Workflow | None = None, **settings: Any) -> None:
        self.prepared: EncodePlan = prepare(workflow or fake_settings(**settings), out)
        run, dataset = self.prepared.workflow.run, self.prepared.workflow.dataset
        self.job = EncodeJob(
            source=dataset.source,
            image=dataset.image,
            encoders=dataset.encoders,
            content="",
            weights=(self.prepared.image_info.weights, self.prepared.text_info.weights),
            slots=max(1, self.prepared.source_info.slots),
            folder=self.prepared.folder,
            fingerprint="f" * 64,
            runtime=CPU,
            batch=self.prepared.requirements.batch,
            text_batch=run.text_batch,
            reader_threads=run.reader_threads,
            gate_rows=run.gate_rows,
            min_psnr=run.min_psnr,
            on_missing_chunk=run.on_missing_chunk,
        )
        self.store = ZarrStore(self.prepared.folder)
        arrays = store_arrays(self.prepared.image_info, self.prepared.text_info, self.job.slots)
        self.store.create(self.prepared.source_info.rows, dataset.rows_per_chunk, arrays, {})

    def chunk(self, index: int = 0) -> Chunk:
        chunk = self.prepared.grid[index]
        return replace(chunk, rows=tuple(self.prepared.source.rows(chunk.start, chunk.stop)))

    def encode(self, index: int = 0, **changes: Any) -> Receipt:
        """Encode a chunk, and publish it."""
        with publishing(self.prepared.folder) as publication:
            staged = encode_chunk(replace(self.job, run=publication.run, **changes), self.chunk(index))
            publication.publish(staged)
        return staged.receipt

    def read(self, name: str, index: int = 0) -> Any:
        chunk = self.prepared.grid[index]
        return self.store.read(name, chunk.start, chunk.stop)

    @property
    def receipts(self) -> list[int]:
        return [receipt.chunk for receipt in Receipts(self.prepared.folder).read()]

    def shards_there(self) -> list[str]:
        return [n for n in self.prepared.folder.list("latents.zarr") if not n.endswith("zarr.json")]


# Rows and counts


def test_every_row_is_either_accepted_or_rejected_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source={"missing": [1, 9], "unreadable": [2], "uncaptioned": [3, 19]})
    receipts = [bench.encode(i) for i in range(3)]
    assert [(r.accepted, len(r.rejected)) for r in receipts] == [(5, 3), (7, 1), (3, 1)]
    assert sum(r.captions for r in receipts) == 2 * 15
    found = {(x.row, x.image_id, x.reason) for r in receipts for x in r.rejected}
    assert found == {
        (1, 2, Reason.MISSING_FILE),
        (9, 10, Reason.MISSING_FILE),
        (2, 3, Reason.UNREADABLE_IMAGE),
        (3, 4, Reason.NO_CAPTION),
        (19, 20, Reason.NO_CAPTION),
    }
    for index in range(3):
        accepted = {r.row for r in receipts[index].rejected} ^ set(
            range(bench.chunk(index).start, bench.chunk(index).stop)
        )
        valid = np.flatnonzero(bench.read("valid", index)) + bench.chunk(index).start
        assert set(valid.tolist()) == accepted


def test_the_stored_arrays_equal_the_output_of_the_encoders(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.encode()
    for row, (pixels, place) in enumerate(zip(_pictures(bench, 0), range(8), strict=True)):
        made = FakeImageEncoder().encode(pixels[None], 1)
        np.testing.assert_array_equal(bench.read("latent_mean")[place], made["latent_mean"][0])
        captions = bench.chunk().rows[row].captions
        states = FakeTextEncoder().encode(captions, 8)
        np.testing.assert_array_equal(bench.read("text_states")[place], states["text_states"])
        np.testing.assert_array_equal(bench.read("text_mask")[place], states["text_mask"])
        assert tuple(bench.read("caption")[place]) == captions
    assert bench.read("source_size").tolist() == [[48, 40]] * 8
    assert bench.read("crop_box").tolist() == [[4, 0, 44, 40]] * 8
    assert bench.read("image_id").tolist() == list(range(1, 9))


def _pictures(bench: Bench, index: int) -> list[Pixels]:
    source = FakeSource(20)
    return [images.read(source.read(r), 32, LIMITS).pixels for r in bench.chunk(index).rows]


def test_a_rejected_row_holds_fill_values_and_still_names_its_image(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source={"missing": [1], "uncaptioned": [4]})
    bench.encode()
    for row in (1, 4):
        for name in ("latent_mean", "latent_std", "text_states", "text_pooled"):
            assert np.isnan(bench.read(name)[row]).all()
        assert not bench.read("valid")[row]
        assert not bench.read("text_mask")[row].any()
        assert bench.read("crop_box")[row].tolist() == [0, 0, 0, 0]
        assert set(bench.read("caption")[row]) == {""}
        assert bench.read("image_id")[row] == row + 1
        assert bench.read("file_name")[row] == f"{row:08d}.bmp"


def test_a_chunk_in_which_all_rows_are_rejected_is_committed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rows=3, source={"missing": [0, 1, 2]})
    receipt = bench.encode()
    assert (receipt.accepted, len(receipt.rejected), receipt.captions, receipt.psnr) == (0, 3, 0, ())
    assert receipt.shards
    assert not bench.read("valid").any()


@pytest.mark.parametrize("uncaptioned", [(), (2,)])
def test_no_caption_is_encoded_if_all_images_are_missing(
    uncaptioned: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image of a row without a caption is not read, whether the source or the worker finds that out."""
    away = component(f"{__name__}.Away", uncaptioned=list(uncaptioned))
    bench = Bench(tmp_path, with_parts(fake_settings(), source=away))
    monkeypatch.setattr(FakeTextEncoder, "encode", _never)
    with pytest.raises(ImagesMissing, match=f"None of the {8 - len(uncaptioned)} images of chunk 0"):
        bench.encode()
    assert not list(Receipts(bench.prepared.folder).read())


class Away(FakeSource):
    """All images are missing. The worker finds out that a row has no caption."""

    def __init__(self, uncaptioned: Sequence[int]) -> None:
        super().__init__(rows=20, missing=range(20))
        self.bare = set(uncaptioned)

    def _row(self, index: int) -> Row:
        row = super()._row(index)
        return replace(row, captions=()) if index in self.bare else row


def _never(*given: Any) -> Any:
    raise AssertionError("no caption must be encoded")


def test_no_caption_is_encoded_if_the_source_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, with_parts(fake_settings(), source=component(f"{__name__}.Unreachable", rows=20)))
    bench.job = replace(bench.job, transport_patience=0.0)
    monkeypatch.setattr(FakeTextEncoder, "encode", _never)
    with pytest.raises(ConnectionError, match="no route"):
        bench.encode()


class Unreachable(FakeSource):
    def read(self, row: Row) -> bytes:
        raise ConnectionError("no route")


def test_unused_slots_are_zeros_and_rows_keep_their_own_captions(tmp_path: Path) -> None:
    ragged = component(f"{__name__}.Ragged")
    bench = Bench(tmp_path, with_parts(fake_settings(), source=ragged))
    receipt = bench.encode()
    assert receipt.captions == 1 + 2 + 3
    for row in range(3):
        for name in ("text_states", "text_mask", "text_pooled", "text_truncated"):
            assert not bench.read(name)[row, row + 1 :].any()
            assert not np.isnan(bench.read(name)[row].astype(float)).any()
        assert bench.read("text_mask")[row, : row + 1].any(axis=1).all()
        assert list(bench.read("caption")[row]) == [f"row {row}, {i}" for i in range(row + 1)] + [""] * (2 - row)


class Ragged(FakeSource):
    """Three rows with one, two and three captions."""

    def __init__(self) -> None:
        super().__init__(rows=3, captions=3)

    def _row(self, index: int) -> Row:
        return replace(super()._row(index), captions=tuple(f"row {index}, {i}" for i in range(index + 1)))


def test_truncated_captions_are_counted(tmp_path: Path) -> None:
    assert Bench(tmp_path, text={"max_tokens": 5}).encode().truncated == 16


# NaN


def test_a_nan_of_the_image_encoder_rejects_only_that_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    means = [float(p.mean()) for p in _pictures(bench, 0)]
    bad = int(np.argmax(means))
    assert max(means) > 150, "the card is NaN too if the range comes near its mean"
    bench = Bench(tmp_path / "nan", image={"nan_for": [max(means) - 0.01, 256.0]})
    receipt = bench.encode()
    assert [(r.row, r.reason) for r in receipt.rejected] == [(bad, Reason.NOT_FINITE)]
    assert "image encoder" in receipt.rejected[0].detail
    assert (receipt.accepted, receipt.captions) == (7, 14)
    _assert_only_this_row_is_empty(bench, bad)


def test_a_nan_of_the_text_encoder_rejects_only_that_row(tmp_path: Path) -> None:
    poisoned = FakeSource(20).rows(5, 6)[0].captions[1]
    bench = Bench(tmp_path, text={"nan_for": poisoned})
    receipt = bench.encode()
    assert [(r.row, r.reason) for r in receipt.rejected] == [(5, Reason.NOT_FINITE)]
    assert "text encoder" in receipt.rejected[0].detail
    assert (receipt.accepted, receipt.captions) == (7, 14)
    _assert_only_this_row_is_empty(bench, 5)


def test_a_problem_of_the_image_is_reported_before_a_problem_of_the_text(tmp_path: Path) -> None:
    poisoned = FakeSource(20).rows(5, 6)[0].captions[1]
    receipt = Bench(tmp_path, text={"nan_for": poisoned}, source={"missing": [5]}).encode()
    assert [(r.row, r.reason) for r in receipt.rejected] == [(5, Reason.MISSING_FILE)]
    assert (receipt.accepted, receipt.captions) == (7, 14)


def test_captions_of_rejected_rows_are_not_counted_as_truncated(tmp_path: Path) -> None:
    assert Bench(tmp_path, text={"max_tokens": 5}, source={"missing": [5]}).encode().truncated == 14


def _assert_only_this_row_is_empty(bench: Bench, row: int) -> None:
    for name in ("latent_mean", "latent_std", "text_states", "text_pooled"):
        empty = [bool(np.isnan(values).all()) for values in bench.read(name)]
        finite = [bool(np.isfinite(values).all()) for values in bench.read(name)]
        assert empty == [i == row for i in range(8)], name
        assert finite == [i != row for i in range(8)], name
    assert bench.read("valid").tolist() == [i != row for i in range(8)]
    assert not bench.read("text_mask")[row].any()


# Memory


@pytest.mark.parametrize(("which", "setting"), [("image", "batch"), ("text", "text_batch")])
def test_a_batch_that_does_not_fit_is_halved_until_it_fits(tmp_path: Path, which: str, setting: str) -> None:
    calm = Bench(tmp_path / "calm", rows=16, rows_per_chunk=16)
    tight = Bench(tmp_path / "tight", rows=16, rows_per_chunk=16, **{which: {"memory_limit_batch": 3}})
    calm.encode(batch=16, text_batch=16)
    receipt = tight.encode(batch=16, text_batch=16)
    assert receipt.accepted == 16
    assert receipt.batch == (2 if which == "image" else 16)
    assert len(receipt.warnings) == 3
    assert f"run.{setting}: memory ran out at 16" in receipt.warnings[0]
    assert "continues with 2" in receipt.warnings[-1]
    for name in ("latent_mean", "text_states"):
        np.testing.assert_array_equal(calm.read(name), tight.read(name))


def test_the_batch_that_fits_is_remembered_and_reported_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, image={"memory_limit_batch": 2})
    assert bench.encode(0).warnings
    again = bench.encode(1)
    assert (again.warnings, again.batch) == ((), 2)


def test_one_item_that_does_not_fit_fails_the_chunk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, image={"memory_limit_batch": 0}, gate_rows=0)
    with pytest.raises(OutOfMemory, match="Not even a batch of one item") as error:
        bench.encode()
    assert not error.value.ends_run  # another worker may have more memory
    assert bench.receipts == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ],
    ids=["MemoryError", "linux", "windows", "cuda"],
)
def test_every_kind_of_out_of_memory_error_is_recognised(error: Exception) -> None:
    models = fake_models()

    def call(size: int) -> int:
        if size > 2:
            raise error
        return size

    assert retry_smaller_batch(models, "batch", 5, call) == 2
    assert len(models.take_warnings()) == 1
    assert models.take_warnings() == ()


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    models = fake_models()
    calls = []

    def call(size: int) -> None:
        calls.append(size)
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        retry_smaller_batch(models, "batch", 8, call)
    assert calls == [8]


# Gates


def test_a_wrong_pixel_range_stops_before_anything_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, image={"pixel_range": "unit"})
    with pytest.raises(GateError, match=r"the test card decode to pictures with 1\d\.\d dB PSNR.* wrong pixel range"):
        bench.encode()
    assert bench.shards_there() == []
    assert bench.receipts == []


def test_a_chunk_that_does_not_decode_back_is_named_and_not_written(tmp_path: Path) -> None:
    """An encoder that passes the test card and encodes real pictures wrongly."""
    bench = Bench(tmp_path, with_parts(fake_settings(), image=component(f"{__name__}.WrongLater")))
    with pytest.raises(GateError, match=r"chunk 1 \(rows 8, 12\) decode to pictures with \d+\.\d dB") as error:
        bench.encode(1)
    assert "Nothing of it was stored" in str(error.value)
    assert bench.shards_there() == []
    assert bench.receipts == []


class WrongLater(FakeImageEncoder):
    """Decodes the test card correctly, and later pictures to their negatives."""

    cards = 0

    def decode(self, arrays: Mapping[str, Any]) -> Pixels:
        self.cards += 1
        right = super().decode(arrays)
        return right if self.cards == 1 else 255 - right


def test_decode_back_is_measured_on_rows_spread_over_the_chunk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source={"missing": [0]})
    assert len(bench.encode(0, gate_rows=4).psnr) == 4  # row 0 is missing, so row 1 is decoded back
    assert len(bench.encode(1, gate_rows=100).psnr) == 8
    assert bench.encode(2, gate_rows=0).psnr == ()
    assert min(bench.encode(1).psnr) > 40


def test_rows_are_decoded_back_where_the_chosen_ones_are_missing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source={"missing": [0, 4, 8, 10, 11, 12, 13, 14, 15]})
    assert [len(bench.encode(i).psnr) for i in range(2)] == [2, 1], "chunk 1 has one picture"


def test_an_empty_prompt_that_is_not_finite_is_refused_before_the_first_chunk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, with_parts(fake_settings(), text=component(f"{__name__}.NoEmptyPrompt")))
    with pytest.raises(GateError, match=r"infinity for the empty prompt \(text_pooled, text_states\)"):
        inspect(bench.job, "fp32")


class NoEmptyPrompt(FakeTextEncoder):
    def encode(self, items: Sequence[str], batch: int) -> dict[str, Any]:
        made = super().encode(items, batch)
        for index, caption in enumerate(items):
            if not caption:
                made["text_states"][index, 0, 0], made["text_pooled"][index, 3] = np.inf, np.nan
        return made


def test_an_encoder_that_cannot_decode_is_not_checked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, with_parts(fake_settings(), image=component(f"{__name__}.OneWay")))
    assert bench.encode().psnr == ()


class OneWay(FakeImageEncoder):
    def decode(self, arrays: Mapping[str, Any]) -> Any:
        return None


# The output of an encoder


class Careless(FakeImageEncoder):
    """Correct for the test card; later its output differs from `info`."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def encode(self, items: Pixels, batch: int) -> dict[str, Any]:
        made: dict[str, Any] = super().encode(items, batch)
        if len(items) > 1:
            if self.fault == "missing":
                del made["latent_std"]
            elif self.fault == "unknown":
                made["extra"] = made["latent_std"]
            elif self.fault == "shape":
                made["latent_std"] = made["latent_std"][:, :1]
            elif self.fault == "rows":
                made = {name: np.concatenate([array, array]) for name, array in made.items()}
            elif self.fault == "overflow":
                made["latent_std"] = np.full(made["latent_std"].shape, 1e6, np.float32)
        return made


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "rows", "overflow"])
def test_an_encoder_whose_output_differs_from_info_stops_the_run(tmp_path: Path, fault: str) -> None:
    """numpy would silently broadcast, cast to infinity, or leave an accepted row empty."""
    bench = Bench(tmp_path, with_parts(fake_settings(), image=component(f"{__name__}.Careless", fault=fault)))
    with pytest.raises(ModelError, match="made other arrays than its"):
        bench.encode()
    assert (bench.receipts, bench.shards_there()) == ([], [])


# Commit


def test_encoding_a_chunk_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source={"missing": [2]})
    first, second = bench.encode(), bench.encode()
    assert first.shards == second.shards
    assert first.inputs == second.inputs
    assert Bench(tmp_path / "elsewhere", source={"missing": [2]}).encode(reader_threads=1).shards == first.shards


def test_the_receipt_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    there_before: list[int] = []

    def full(self: Receipts, receipt: Receipt, attempt: Attempt) -> None:
        there_before.append(len(bench.prepared.folder.list(attempt.place)))
        assert bench.shards_there() == []
        raise StoreFull("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(Receipts, "write", full)
        with pytest.raises(StoreFull):
            bench.encode()
    assert there_before == [len(ZarrStore(bench.prepared.folder).layout()["arrays"])]
    assert bench.receipts == []
    bench.encode()
    assert bench.receipts == [0]


def test_a_store_that_cannot_be_written_leaves_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    write, count = Attempt.write, iter(range(100))

    def full(self: Attempt, name: str, data: Any) -> None:
        if ".c." in name and next(count) == 3:
            raise StoreFull("no space is left")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "write", full)
        with pytest.raises(StoreFull):
            encode_chunk(bench.job, bench.chunk())
    assert [name for name in bench.prepared.folder.list("attempts") if "gone" not in name] == []
    assert bench.receipts == []
    assert bench.encode().shards
    assert ZarrStore(bench.prepared.folder).check(bench.encode().shards) is None


def test_a_receipt_records_times_loads_and_versions(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    receipt = bench.encode()
    assert {"read", "decode", "encode_image", "encode_text", "gate", "write", "total"} <= receipt.seconds.keys()
    assert all(0 <= value <= receipt.seconds["total"] for stage, value in receipt.seconds.items())
    assert receipt.loads == {"image": 1, "text": 1}
    assert receipt.peak_bytes > 10**7
    assert receipt.worker.partition(":")[2].isdigit()
    assert {"daskt2i", "numpy", "zarr"} <= receipt.versions.keys()
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert next(Receipts(bench.prepared.folder).read()) == receipt


def test_the_input_hash_of_a_chunk_changes_with_any_image(tmp_path: Path) -> None:
    same, changed = Bench(tmp_path / "a").encode(), Bench(tmp_path / "b", source={"width": 49}).encode()
    assert Bench(tmp_path / "c").encode().inputs == same.inputs != changed.inputs


def test_an_interruption_is_checked_between_batches_and_leaves_no_receipt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    asked = []

    class Elsewhere(Exception):
        pass

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == 2:
            raise Elsewhere

    token = interruption.set(check)
    try:
        with pytest.raises(Elsewhere):
            bench.encode(batch=2)
        assert asked == [0, 1]
        assert (bench.receipts, bench.shards_there()) == ([], [])
        asked.extend([0] * 10)
        bench.encode(batch=2)
        assert len(asked) == 12 + 4 + 1, "four batches of images, and the captions"
    finally:
        interruption.reset(token)


def test_an_interrupted_chunk_leaves_no_thread_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def leave() -> None:
        raise KeyError

    token = interruption.set(leave)
    try:
        with pytest.raises(KeyError):
            bench.encode(batch=2)
    finally:
        interruption.reset(token)
    assert [t.name for t in threading.enumerate() if t.name.startswith("daskt2i-read")] == []


# Captions


class CountingText(FakeTextEncoder):
    """Records its calls, and how many threads call at once."""

    seen: list[str]
    inside = 0
    most = 0
    loaded = 0
    lock = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        cls.seen, cls.inside, cls.most, cls.loaded = [], 0, 0, 0

    def load(self, runtime: Runtime) -> None:
        time.sleep(0.05)
        with self.lock:
            type(self).loaded += 1

    def encode(self, items: Sequence[str], batch: int) -> dict[str, Any]:
        with self.lock:
            type(self).inside += 1
            type(self).most = max(self.most, self.inside)
            type(self).seen.extend(items)
        time.sleep(0.005)
        made = super().encode(items, batch)
        with self.lock:
            type(self).inside -= 1
        return made


class Repeating(FakeSource):
    """Every row has the same two captions, one of them twice."""

    def __init__(self) -> None:
        super().__init__(rows=8, captions=3)

    def _row(self, index: int) -> Row:
        return replace(super()._row(index), captions=("a dog", "a cat", "a dog"))


@pytest.fixture
def counting() -> type[CountingText]:
    CountingText.reset()
    return CountingText


def test_equal_captions_of_a_chunk_are_encoded_once(tmp_path: Path, counting: type[CountingText]) -> None:
    workflow = with_parts(
        fake_settings(), source=component(f"{__name__}.Repeating"), text=component(f"{__name__}.CountingText")
    )
    bench = Bench(tmp_path, workflow)
    receipt = bench.encode()
    assert counting.seen == ["a dog", "a cat"]
    assert receipt.captions == 24
    states = bench.read("text_states")
    np.testing.assert_array_equal(states[:, 0], states[:, 2])
    assert (states[:, 0] != states[:, 1]).any()


# Models


def test_models_load_once_when_eight_threads_call_at_once(tmp_path: Path, counting: type[CountingText]) -> None:
    workflow = with_parts(fake_settings(rows=64), text=component(f"{__name__}.CountingText"))
    bench = Bench(tmp_path, workflow)
    start, receipts = threading.Barrier(8), [None] * 8

    def work(publication: Publication, index: int) -> None:
        start.wait()
        staged = encode_chunk(replace(bench.job, run=publication.run), bench.chunk(index))
        publication.publish(staged)
        receipts[index] = staged.receipt  # type: ignore[call-overload]

    with publishing(bench.prepared.folder) as publication:
        threads = [threading.Thread(target=work, args=(publication, i)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counting.loaded == 1
    assert counting.most == 1, "one chunk at a time, whatever the number of threads"
    assert {tuple(r.loads.items()) for r in receipts if r} == {(("image", 1), ("text", 1))}
    assert bench.receipts == list(range(8))


class Heavy(FakeImageEncoder):
    """Its weights are said to have 100 bytes."""

    def info(self, resolution: int) -> EncoderInfo:
        return replace(super().info(resolution), weight_bytes=100)


def heavy(out: Path, channels: int) -> Bench:
    return Bench(out, with_parts(fake_settings(), image=component(f"{__name__}.Heavy", channels=channels)))


def test_jobs_that_share_a_worker_keep_their_models_there_as_far_as_these_fit(tmp_path: Path) -> None:
    jobs = [heavy(tmp_path / str(channels), channels) for channels in (3, 4, 5)]
    assert models_for(jobs[0].job) is models_for(replace(jobs[0].job, fingerprint="0" * 64, batch=9))
    for bench in (*jobs[:2], *jobs[:2]):
        bench.encode(spare_bytes=100)
    assert model_cache.loads() == {"image": 2, "text": 1}, "both fit, and they share the text encoder"
    jobs[2].encode(spare_bytes=100)
    assert model_cache.held() == 3
    jobs[1].encode(spare_bytes=100)
    assert model_cache.loads()["image"] == 3
    jobs[0].encode(spare_bytes=100)
    assert model_cache.loads()["image"] == 4, "the first was not used for the longest time, so it had to go"


def test_a_process_keeps_the_sources_of_a_few_jobs_although_all_models_fit(tmp_path: Path) -> None:
    jobs = [Bench(tmp_path / str(rows), fake_settings(rows=rows)).job for rows in range(8, 9 + model_cache.MOST_JOBS)]
    for job in jobs:
        models_for(replace(job, spare_bytes=2**40))
    assert model_cache.loads() == {"image": 1, "text": 1}, "all of them share the encoders"
    kept = [replace(job, spare_bytes=2**40) for job in jobs[1:]]
    assert len({id(models_for(job)) for job in kept}) == model_cache.MOST_JOBS
    assert len(model_cache._held) == model_cache.MOST_JOBS


def test_without_memory_to_spare_another_job_replaces_the_models_of_the_first(tmp_path: Path) -> None:
    one, other = heavy(tmp_path / "a", 4), heavy(tmp_path / "b", 5)
    for bench in (one, other, one):
        bench.encode()
        assert model_cache.held() == 2
    assert model_cache.loads() == {"image": 3, "text": 1 + 2}


def test_where_memory_runs_out_the_models_of_other_jobs_go_before_a_batch_is_halved(tmp_path: Path) -> None:
    one, other = heavy(tmp_path / "a", 4), heavy(tmp_path / "b", 5)
    models_for(one.job)
    models = models_for(replace(other.job, spare_bytes=100))
    sizes: list[int] = []

    def call(size: int) -> int:
        sizes.append(size)
        if model_cache.held() > 2:
            raise MemoryError
        return size

    assert retry_smaller_batch(models, "batch", 8, call) == 8
    assert (sizes, models.fits) == ([8, 8], {})


class Vanishing(FakeImageEncoder):
    """Its info is not there any more once it is loaded."""

    def info(self, resolution: int) -> EncoderInfo:
        if self.loads:
            raise ModelMissing("the folder of the model is gone")
        return super().info(resolution)


def test_a_model_folder_that_goes_away_after_loading_does_not_matter(tmp_path: Path) -> None:
    bench = Bench(tmp_path, with_parts(fake_settings(), image=component(f"{__name__}.Vanishing")))
    assert [bench.encode(i).accepted for i in range(3)] == [8, 8, 4]


def test_a_model_that_fails_to_load_is_loaded_again_and_never_kept_in_part(tmp_path: Path) -> None:
    bench = Bench(tmp_path, image={"pixel_range": "unit"})
    for _ in range(2):
        with pytest.raises(GateError):
            models_for(bench.job)
    assert model_cache.held() == 0


def test_a_worker_resolves_device_and_precision_and_encodes_the_empty_prompt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found = inspect(replace(bench.job, runtime=Runtime("cpu", "bf16", 1)), "fp32")
    assert found.runtime == CPU
    np.testing.assert_array_equal(found.empty["text_states"], FakeTextEncoder().encode([""], 1)["text_states"][0])
    bench.encode()
    assert model_cache.loads() == {"image": 1, "text": 1}, "what it loaded to look serves the chunks"


def test_a_component_that_is_missing_on_a_worker_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = replace(bench.job, source=component("not.installed.here.Source"))
    with pytest.raises(ConfigError, match="installed where the workers run"):
        encode_chunk(job, bench.chunk())


# Reading


class Slow(FakeSource):
    """Reads the first row last, and counts the rows that were requested."""

    def __init__(self, rows: int = 40, wrong: Callable[[int], Exception | None] = lambda index: None) -> None:
        super().__init__(rows)
        self.asked = 0
        self.wrong = wrong

    def read(self, row: Row) -> bytes:
        self.asked += 1
        time.sleep(0.02 if row.index % 4 == 0 else 0.0)
        if error := self.wrong(row.index):
            raise error
        return super().read(row)


def _ahead(source: Slow, window: int = 6, threads: int = 3) -> contextlib.AbstractContextManager[Iterator[Reading]]:
    return reading_ahead(source, source.rows(0, 40), square(16), LIMITS, threads=threads, window=window)


@pytest.mark.parametrize(("window", "threads"), [(1, 1), (6, 3), (3, 8), (100, 2)])
def test_rows_come_in_order_even_if_the_first_row_is_read_last(window: int, threads: int) -> None:
    with _ahead(Slow(), window, threads) as readings:
        assert [r.row.index for r in readings] == list(range(40))


def test_reading_starts_before_the_first_row_is_requested() -> None:
    source = Slow()
    with _ahead(source):
        deadline = time.monotonic() + 10
        while source.asked < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.asked == 6


def test_no_more_rows_are_read_than_the_window_holds() -> None:
    source = Slow()
    with _ahead(source) as readings:
        for taken in range(1, 10):
            next(readings)
            time.sleep(0.01)
            assert source.asked <= taken + 6
    stopped = source.asked
    time.sleep(0.05)
    assert source.asked == stopped < 40


def _reading(fetch: float, decode: float) -> Reading:
    row = FakeSource(1).rows(0, 1)[0]
    return Reading(row, Rejection(0, 1, Reason.MISSING_FILE), b"", "", fetch, decode)


def test_more_threads_read_while_the_model_waits_up_to_the_cores_of_the_worker() -> None:
    count = ReaderCount(2, 4)
    grew = [count.saw(ready=False, reading=_reading(0.1, 1.0)) for _ in range(40)]
    assert (count.now, sum(grew)) == (4, 2)
    assert grew.index(True) == 3, "a single late picture is no reason"


def test_threads_that_wait_for_a_network_may_be_more_than_the_cores() -> None:
    count = ReaderCount(2, 2)
    for _ in range(200):
        count.saw(ready=False, reading=_reading(1.0, 0.1))
    assert count.now == 8


def test_a_model_that_never_waits_keeps_its_two_threads() -> None:
    count = ReaderCount(2, 16)
    assert not any(count.saw(ready=number % 3 > 0, reading=_reading(0.1, 1.0)) for number in range(200))


class Counting(FakeSource):
    """Takes 5 ms a row, and knows the threads that read."""

    def __init__(self) -> None:
        super().__init__(60)
        self.threads: set[str] = set()

    def read(self, row: Row) -> bytes:
        self.threads.add(threading.current_thread().name)
        time.sleep(0.005)
        return super().read(row)


def test_threads_are_added_within_a_chunk_and_stay_for_the_next_one() -> None:
    source, count = Counting(), ReaderCount(2, 2)
    with reading_ahead(source, source.rows(0, 60), square(16), LIMITS, threads=count, window=8) as readings:
        assert [r.row.index for r in readings] == list(range(60))
    # The thread that was added last may come too late for a row.
    assert 2 < len(source.threads) <= count.now
    again = Counting()
    with reading_ahead(again, again.rows(0, 20), square(16), LIMITS, threads=count, window=8) as readings:
        list(readings)
    assert len(again.threads) > 2


def test_an_error_of_the_source_is_raised_when_its_row_is_reached() -> None:
    source = Slow(wrong=lambda index: OSError("the network is gone") if index == 7 else None)
    with _ahead(source) as readings:
        assert [next(readings).row.index for _ in range(7)] == list(range(7))
        with pytest.raises(OSError, match="the network is gone"):
            next(readings)
    assert source.asked < 40


def test_a_row_that_the_index_rejects_is_not_read() -> None:
    source = Slow()
    row = replace(source.rows(0, 1)[0], reason=Reason.UNSAFE_PATH, detail="../x")
    reading = read_row(source, row, square(16), LIMITS)
    assert reading.outcome == Rejection(0, 1, Reason.UNSAFE_PATH, "../x")
    assert (reading.digest, source.asked) == (b"", 0)


class Torn(FakeSource):
    """Its first answer ends early, without an error."""

    def __init__(self) -> None:
        super().__init__(4)
        self.asked = 0

    def read(self, row: Row) -> bytes:
        self.asked += 1
        data = super().read(row)
        return data[:200] if self.asked == 1 else data


def test_an_answer_that_ends_early_is_no_damaged_image() -> None:
    source = Torn()
    reading = read_row(source, source.rows(2, 3)[0], square(16), LIMITS)
    assert isinstance(reading.outcome, Record)
    assert source.asked == 2


def test_an_image_that_is_damaged_each_time_is_rejected() -> None:
    source = FakeSource(4, unreadable=[2])
    outcome = read_row(source, source.rows(2, 3)[0], square(16), LIMITS).outcome
    assert isinstance(outcome, Rejection)
    assert outcome.reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("error", [PermissionError(13, "no"), ConnectionResetError(104, "reset")])
def test_a_source_that_makes_a_rejection_of_a_passing_error_rejects_no_row(error: OSError) -> None:
    class Translating(FakeSource):
        def read(self, row: Row) -> bytes:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "cannot be read") from error

    source = Translating(4)
    rows = source.rows(0, 4)
    care = Care(patience=0.0)
    with (
        pytest.raises((AccessRefused, TransportFailed)),
        reading_ahead(source, rows, square(16), LIMITS, threads=1, window=2, care=care) as readings,
    ):
        next(readings)


def test_a_file_that_is_not_there_rejects_its_row_whatever_the_source_raises() -> None:
    class Gone(FakeSource):
        def read(self, row: Row) -> bytes:
            raise FileNotFoundError(2, "No such file", row.file_name)

    source = Gone(4)
    with reading_ahead(source, source.rows(0, 1), square(16), LIMITS, threads=1, window=1) as readings:
        assert next(readings).outcome == Rejection(0, 1, Reason.MISSING_FILE, "00000000.bmp")


def test_a_reading_records_what_was_read() -> None:
    import hashlib

    source = FakeSource()
    reading = read_row(source, source.rows(0, 1)[0], square(16), LIMITS)
    assert isinstance(reading.outcome, Record)
    assert reading.outcome.pixels.shape == (16, 16, 3)
    assert reading.digest == hashlib.sha256(bitmap(48, 40, (0, 0, 0))).digest()
    assert reading.fetch_seconds >= 0 <= reading.decode_seconds
