"""Each format is read back with the library that people use, and has the rows of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from loader.test_dataset import REJECTED, ROWS, encoded

from daskt2i import open_store
from daskt2i.export.card import reading
from daskt2i.export.driver import ABOUT, FORMATS, export
from daskt2i.store.run_folder import RunFolder

ACCEPTED = sorted(set(range(ROWS)) - REJECTED)

Rows = Mapping[int, Mapping[str, Any]]
"""Row -> its image_id, captions, latent_mean, latent_std, and for each caption the states of the tokens that count."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def wanted(store: Path) -> Rows:
    """The rows as the store has them."""
    there = open_store(store).load()
    found = {}
    for row in ACCEPTED:
        one = there.isel(row=row)
        captions = [str(text) for text in one.caption.values if str(text)]
        texts = zip(one.text_states.values, one.text_mask.values, captions, strict=False)
        found[row] = {
            "image_id": int(one.image_id),
            "captions": captions,
            "latent_mean": one.latent_mean.values,
            "latent_std": one.latent_std.values,
            "states": [states[mask] for states, mask, _ in texts],
            "pooled": one.text_pooled.values[: len(captions)],
            "size": one.source_size.values.tolist(),
        }
    return found


def same(found: Rows, wanted: Rows) -> None:
    assert list(found) == list(wanted)
    for row, one in found.items():
        for name, value in one.items():
            if name == "states":
                assert len(value) == len(wanted[row][name])
                for mine, theirs in zip(value, wanted[row][name], strict=True):
                    np.testing.assert_array_equal(np.asarray(mine, np.float16), theirs)
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, wanted[row][name])
            else:
                assert value == wanted[row][name]


def counted(states: Any, mask: Any) -> list[Any]:
    """Of `[caption, token, feature]` the tokens that count, caption by caption."""
    return [np.asarray(one)[np.asarray(marks, bool)] for one, marks in zip(states, mask, strict=True)]


def from_webdataset(place: Path) -> Rows:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset (pip install 'daskt2i[export]')")
    urls = [str(path) for path in sorted(place.glob("*.tar"))]
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        about = sample["json"]
        found[about["row"]] = {
            "image_id": about["image_id"],
            "captions": about["captions"],
            "latent_mean": sample["latent_mean.npy"],
            "latent_std": sample["latent_std.npy"],
            "states": counted(sample["text_states.npy"], sample["text_mask.npy"]),
            "pooled": sample["text_pooled.npy"],
            "size": about["source_size"],
        }
    return found


def from_npy(place: Path) -> Rows:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in place.glob("*.npy")}
    lines = [json.loads(line) for line in (place / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in lines] == arrays["row"].tolist()
    found, begin, token = {}, 0, 0
    for place_of, end in enumerate(arrays["row_ends"].tolist()):
        states = []
        for caption in range(begin, end):
            stop = int(arrays["caption_ends"][caption])
            states.append(arrays["text_states"][token:stop][arrays["text_mask"][token:stop]])
            token = stop
        found[lines[place_of]["row"]] = {
            "image_id": int(arrays["image_id"][place_of]),
            "captions": lines[place_of]["captions"],
            "latent_mean": np.asarray(arrays["latent_mean"][place_of]),
            "latent_std": np.asarray(arrays["latent_std"][place_of]),
            "states": states,
            "pooled": np.asarray(arrays["text_pooled"][begin:end]),
            "size": arrays["source_size"][place_of].tolist(),
        }
        begin = end
    return found


def from_parquet(place: Path) -> Rows:
    table = pq.read_table(place / "data")
    shapes = json.loads(table.schema.metadata[b"daskt2i"])
    found = {}
    for one in table.to_pylist():
        mask = np.array(one["text_mask"], bool).reshape(-1, one["text_tokens"])
        states = np.array(one["text_states"], np.float16).reshape(*mask.shape, shapes["features"])
        found[one["row"]] = {
            "image_id": one["image_id"],
            "captions": one["captions"],
            "latent_mean": np.array(one["latent_mean"], np.float16).reshape(shapes["latent"]),
            "latent_std": np.array(one["latent_std"], np.float16).reshape(shapes["latent"]),
            "states": counted(states, mask),
            "pooled": np.array(one["text_pooled"], np.float16).reshape(len(mask), -1),
            "size": one["source_size"],
        }
    return found


def from_hf(place: Path) -> Rows:
    datasets = pytest.importorskip("datasets", reason="needs datasets (pip install 'daskt2i[export]')")
    loaded = datasets.load_dataset(str(place), split="train", cache_dir=str(place.parent / "cache"))
    return {
        one["row"]: {
            "image_id": one["image_id"],
            "captions": one["captions"],
            "latent_mean": np.array(one["latent_mean"], np.float16),
            "latent_std": np.array(one["latent_std"], np.float16),
            "states": counted(np.array(one["text_states"], np.float16), one["text_mask"]),
            "pooled": np.array(one["text_pooled"], np.float16),
            "size": one["source_size"],
        }
        for one in loaded
    }


def from_mds(place: Path) -> Rows:
    streaming = pytest.importorskip("streaming", reason="needs mosaicml-streaming (pip install 'daskt2i[export]')")
    return {
        one["row"]: {
            "image_id": one["image_id"],
            "captions": one["captions"],
            "latent_mean": one["latent_mean"],
            "latent_std": one["latent_std"],
            "states": counted(one["text_states"], one["text_mask"]),
            "pooled": one["text_pooled"],
            "size": one["source_size"].tolist(),
        }
        for one in streaming.LocalDataset(str(place))
    }


READ: Mapping[str, Callable[[Path], Rows]] = {
    "webdataset": from_webdataset,
    "npy": from_npy,
    "parquet": from_parquet,
    "hf": from_hf,
    "mds": from_mds,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("to", READ)
def test_a_format_read_by_its_own_library_has_the_rows_of_the_store(
    to: str, store: Path, wanted: Rows, tmp_path: Path
) -> None:
    if to == "mds":
        pytest.importorskip("streaming", reason="needs mosaicml-streaming (pip install 'daskt2i[export]')")
    made = export(RunFolder(store), to, tmp_path / "made")
    same(READ[to](tmp_path / "made"), wanted)
    assert (made.rows, made.dest) == (len(ACCEPTED), str(tmp_path / "made"))
    assert made.files == sum(path.is_file() for path in (tmp_path / "made").rglob("*"))


def test_the_line_that_says_how_to_read_an_export_reads_all_of_it(store: Path, tmp_path: Path) -> None:
    """From where the command ran; the card says it for a reader who is in the folder."""
    place = str(tmp_path / "made")
    made = export(RunFolder(store), "webdataset", place)
    tars = [path.name for path in sorted((tmp_path / "made").glob("*.tar"))]
    names = f"{{{tars[0].removesuffix('.tar')}..{tars[-1].removesuffix('.tar')}}}.tar"
    assert len(tars) > 1
    assert dict(made.view().rows)["read"] == f'webdataset.WebDataset("{place}/{names}").decode()'
    assert f'`webdataset.WebDataset("{names}").decode()`' in (tmp_path / "made" / "README.md").read_text()
    assert reading("hf", 0) == 'datasets.load_dataset(".", split="train")'
    assert reading("hf", 0, "a/b") == 'datasets.load_dataset("a/b", split="train")'


def test_every_format_has_a_test_that_reads_it_back() -> None:
    assert set(FORMATS) == {*READ, "kohya-npz"}


def test_kohya_npz_has_the_files_that_sd_scripts_looks_for(store: Path, wanted: Rows, tmp_path: Path) -> None:
    export(RunFolder(store), "kohya-npz", tmp_path / "made")
    there = open_store(store)
    for row, one in wanted.items():
        stem = str(there.file_name.values[row]).rpartition(".")[0]
        width, height = one["size"]
        # its SdSdxlLatentsCachingStrategy: image path without its ending, size of the image, _sd.npz
        with np.load(tmp_path / "made" / f"{stem}_{width:04d}x{height:04d}_sd.npz") as file:
            cached = dict(file)
        assert cached["latents"].dtype == np.float32
        np.testing.assert_array_equal(cached["latents"], one["latent_mean"].astype(np.float32))
        assert cached["original_size"].tolist() == one["size"]
        # 48 x 40 pixels in a bucket of 32 x 32: its get_crop_ltrb counts 26.67 pixels of height, and (32 - 26.67) // 2
        assert cached["crop_ltrb"].tolist() == pytest.approx([0.0, 2.0, 32.0, 2 + 32 * 40 / 48])
        lines = (tmp_path / "made" / f"{stem}.txt").read_text(encoding="utf-8").splitlines()
        assert lines == [" ".join(text.split()) for text in one["captions"]]


def test_the_card_says_what_the_rows_are_and_how_latents_are_scaled(store: Path, tmp_path: Path) -> None:
    export(RunFolder(store), "hf", tmp_path / "made", where="words > 6")
    about = json.loads((tmp_path / "made" / ABOUT).read_text(encoding="utf-8"))
    assert about["rows"] < len(ACCEPTED)
    assert about["where"] == "words > 6"
    assert about["image_encoder"]["scaling_factor"] == 1.0
    text = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nconfigs:\n")
    said = (f"Rows: {about['rows']}", about["fingerprint"], '"scaling_factor": 1.0', '"FakeTextEncoder"', "Varied")
    assert [part for part in said if part not in text] == []


def test_the_same_rows_give_the_same_bytes(store: Path, tmp_path: Path) -> None:
    for to in ("webdataset", "npy", "parquet"):
        for name in ("one", "two"):
            export(RunFolder(store), to, tmp_path / to / name)
        whole = (path for path in (tmp_path / to / "one").rglob("*") if path.is_file())
        files = [path.relative_to(tmp_path / to / "one") for path in whole]
        assert files
        for path in files:
            assert (tmp_path / to / "one" / path).read_bytes() == (tmp_path / to / "two" / path).read_bytes()
