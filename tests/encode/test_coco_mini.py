"""Real photographs with real captions, and the hostile set, with the demo's encoders: the numbers must be exact."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.coco import HOSTILE
from builders.runs import arrays, assert_same
from builders.workflows import load_workflow

from daskt2i.encode.driver import encode
from daskt2i.encode.model_cache import process_name
from daskt2i.encode.prepare import prepare
from daskt2i.encode.saved_workflow import settings_of
from daskt2i.encode.summary import EncodeResult
from daskt2i.encode.verify import verify
from daskt2i.errors import GateError
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.session.worker_layout import encode_layout
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder


def run(data: Path, out: Path, scheduler: str, *sets: str) -> EncodeResult:
    # Captions of people are longer than captions of scenes, for which the demo keeps 26 tokens.
    workflow = load_workflow(
        "demo",
        ["dataset.precision=fp32", "dataset.rows_per_chunk=16", "dataset.encoders.text.max_tokens=77", *sets],
        str(data / "images"),
        str(data / "captions.json"),
    )
    prepared = prepare(workflow, out)
    chosen = Scheduler.parse(scheduler)
    return encode(prepared, open_executor(chosen, encode_layout(chosen, prepared)))


def first(rows: int, data: Path, folder: Path) -> Path:
    """A new data set with the first rows of a data set."""
    listed = json.loads((data / "captions.json").read_text(encoding="utf-8"))
    images = listed["images"][:rows]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in listed["annotations"] if annotation["image_id"] in kept]
    folder.mkdir()
    (folder / "images").symlink_to((data / "images").resolve())
    (folder / "captions.json").write_text(json.dumps({**listed, "images": images, "annotations": annotations}))
    return folder


def beginning(rows: int, whole: dict[str, Any]) -> dict[str, Any]:
    """The first rows of arrays with 80 rows; the arrays of the empty prompt have no rows and stay."""
    return {name: values[:rows] if len(values) == 80 else values for name, values in whole.items()}


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("coco-mini")}


@pytest.fixture
def reference(coco_mini: Path, shared_runs: dict[str, Path]) -> Path:
    """One process with one thread."""
    out = shared_runs["folder"] / "serial"
    if not out.exists():
        run(coco_mini, out, "serial", "run.threads=1")
    return out


def test_all_rows_and_captions_arrive_exactly_as_they_are_in_the_file(coco_mini: Path, reference: Path) -> None:
    listed = json.loads((coco_mini / "captions.json").read_text(encoding="utf-8"))
    found = arrays(reference)
    assert found["valid"].all()
    assert found["image_id"].tolist() == [image["id"] for image in listed["images"]]
    wanted: dict[int, list[str]] = {image["id"]: [] for image in listed["images"]}
    for annotation in listed["annotations"]:
        wanted[annotation["image_id"]].append(annotation["caption"])
    assert sum(map(len, wanted.values())) == 400
    for row, captions in enumerate(wanted.values()):
        assert [c for c in found["caption"][row] if c] == captions
        assert found["text_mask"][row, : len(captions)].any(axis=1).all()
        assert np.isfinite(found["latent_mean"][row]).all()


@pytest.mark.parametrize(
    "scheduler",
    # By default, tests/encode/test_driver.py compares all executors on fake encoders.
    ["serial", *(pytest.param(each, marks=pytest.mark.slow) for each in ("multiprocessing:2", "joblib:2", "local:2"))],
)
def test_every_executor_gives_the_same_bits_in_fp32(
    scheduler: str, coco_mini: Path, reference: Path, tmp_path: Path
) -> None:
    summary = run(first(48, coco_mini, tmp_path / "data"), tmp_path / "out", scheduler)
    assert (summary.accepted, summary.captions) == (48, 240)
    assert_same(arrays(tmp_path / "out"), beginning(48, arrays(reference)))
    loads: dict[str, Any] = {r.worker: r.loads for r in Receipts(RunFolder(tmp_path / "out")).read()}
    loads.pop(process_name(), None)  # this process has run other tests
    assert all(counts == {"image": 1, "text": 1} for counts in loads.values())


@pytest.mark.slow  # by default, tests/encode/test_driver.py does it with drawn scenes
def test_a_resumed_run_gives_the_same_bits(coco_mini: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "out")
    for chunk in (0, 3):
        Receipts(RunFolder(tmp_path / "out")).delete(chunk)
    assert run(coco_mini, tmp_path / "out", "multiprocessing:1").done == 2  # another process, and other threads
    assert_same(arrays(tmp_path / "out"), arrays(reference))


def test_bf16_stays_within_two_percent_of_fp32(coco_mini: Path, reference: Path, tmp_path: Path) -> None:
    """The difference is a share of each array's range, for 99 % of its values. bf16 has 8 bits of mantissa (0.4 %).

    The test uses few rows, because a processor without bf16 takes several times as long.
    """
    data = first(16, coco_mini, tmp_path / "data")
    assert run(data, tmp_path / "out", "serial", "dataset.precision=bf16").accepted == 16
    rough, fine = arrays(tmp_path / "out"), beginning(16, arrays(reference))
    for name in ("latent_mean", "text_states"):
        span = float(np.ptp(fine[name].astype(np.float32)))
        error = np.abs(rough[name].astype(np.float32) - fine[name].astype(np.float32))
        assert np.quantile(error, 0.99) <= 0.02 * span, name


def test_verify_passes_and_the_photographs_decode_back(reference: Path) -> None:
    verdict = verify(RunFolder(reference), settings_of(RunFolder(reference)))
    assert verdict.ok, verdict.problems
    assert len(verdict.psnr) >= 5


class Unsigned:
    """The demo's VAE, which gets pixels in [0, 1]: the error of MLPerf's published latents."""

    def __new__(cls) -> Any:
        from daskt2i.encoders.vae import VaeEncoder

        class Inner(VaeEncoder):
            def normalise(self, pixels: Any) -> Any:
                return pixels.float() / 255

        return Inner("daskt2i:demo/vae")


@pytest.mark.parametrize("gate", ["on load", "in the first chunk"])
def test_a_vae_that_gets_the_wrong_range_stops_the_run_with_its_psnr(
    gate: str, coco_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gate == "in the first chunk":
        monkeypatch.setattr(
            "daskt2i.encode.gates.test_card", lambda resolution: np.full((1, resolution, resolution, 3), 255, "u1")
        )
    with pytest.raises(GateError, match=r"with \d+\.\d dB PSNR") as caught:
        run(coco_mini, tmp_path / "out", "serial", "dataset.encoders.image={class: encode.test_coco_mini.Unsigned}")
    assert ("chunk 0" if gate == "in the first chunk" else "the test card") in str(caught.value)
    assert list(Receipts(RunFolder(tmp_path / "out")).read()) == []


@pytest.mark.parametrize("resolution", [64, 128])
def test_each_row_of_the_hostile_set_ends_as_its_table_says(resolution: int, hostile: Path, tmp_path: Path) -> None:
    summary = run(hostile, tmp_path / "out", "serial", f"dataset.image.resolution={resolution}")
    assert (summary.accepted, sum(summary.rejected.values()), summary.rows) == (10, 13, 23)
    assert summary.failed == {}
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [line["reason"] for line in lines] == HOSTILE
    assert Counter(r for r in HOSTILE if r) == summary.rejected
    found = arrays(tmp_path / "out")
    assert found["source_size"][9].tolist() == [200, 320]
    listed = json.loads((hostile / "captions.json").read_text(encoding="utf-8"))
    text = next(a["caption"] for a in listed["annotations"] if a["image_id"] == listed["images"][20]["id"])
    assert found["caption"][20, 0] == text
    assert summary.truncated == 1
