"""Equal captions and equal pictures are never on both sides of the split of a store."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from builders.workflows import component, fake_settings, finish, with_parts
from hypothesis import given
from hypothesis import strategies as st

from daskt2i import open_store
from daskt2i.loader.content import GROUPS, find_groups, groups_of, keep_groups, plain_text, split
from daskt2i.loader.dataset import LatentDataset
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Row

ROWS = 40


class Repeated(FakeSource):
    """Rows whose captions repeat: 4 says what 30 says, 7 what 8 says, 8 what 9 says."""

    def _row(self, index: int) -> Row:
        row = super()._row(index)
        own = f"picture {index}"
        said = {4: ("A cat.", own), 30: (own, "a  CAT"), 7: ("a dog", own), 8: ("a dog", "a hen"), 9: ("a hen", own)}
        return Row(row.index, row.image_id, row.file_name, said.get(index, (own,)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("content") / "run"
    settings = fake_settings(rows=ROWS, rows_per_chunk=8, resolution=32)
    finish(with_parts(settings, source=component("loader.test_content.Repeated", rows=ROWS, captions=2)), out)
    return out


def captions(out: Path, rows: Any) -> set[str]:
    return {plain_text(text) for text in open_store(out).caption.values[np.asarray(rows)].ravel() if text}


def test_rows_with_equal_captions_are_in_one_group(store: Path) -> None:
    groups = [sorted(group) for group in find_groups([(ZarrStore(RunFolder(store)), 0)], np.arange(ROWS))]
    joined = {row: group for group in groups for row in group}
    assert joined[4] == joined[30]
    assert joined[7] == joined[8] == joined[9]
    assert all(len(group) > 1 for group in groups)


@pytest.mark.parametrize(("one", "other"), [("A cat.", " a  cat "), ("Dogs!", "dogs"), ("«Ü» x", "«ü» X")])
def test_captions_are_equal_without_case_spaces_and_ends(one: str, other: str) -> None:
    assert plain_text(one) == plain_text(other)
    assert plain_text(one) != plain_text(f"{other} more")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 3, 12])
def test_no_caption_is_on_both_sides(store: Path, seed: int, count: int) -> None:
    data = LatentDataset(RunFolder(store), seed=seed, batch=4, heldout=count)
    data.close()
    assert len(data.heldout) == count
    assert captions(store, data.heldout).isdisjoint(captions(store, data.split.training))
    assert data.split.left_out == 0
    assert len(data.split.training) == ROWS - count


def test_copies_of_a_picture_are_in_one_group_though_other_numbers_differ(tmp_path: Path) -> None:
    """Latents as of a picture, of a copy that was compressed again, and of other pictures."""
    draw = np.random.default_rng(0)
    coarse = np.kron(draw.standard_normal((20, 4, 6, 6)), np.ones((1, 1, 4, 4)))
    latents = coarse + draw.normal(0, 0.05, coarse.shape)
    latents[13] = coarse[2] + draw.normal(0, 0.05, coarse.shape[1:])
    latents[17] = latents[5]

    store = ZarrStore(RunFolder(tmp_path))
    store.create(20, 20, [ArraySpec("latent_mean", ("channel", "y", "x"), (4, 24, 24), "float16", "nan")], {})
    zarr.open_group(tmp_path / "latents.zarr", mode="r+")["latent_mean"][:] = latents.astype(np.float16)
    assert find_groups([(store, 0)], np.arange(20)) == [[2, 13], [5, 17]]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=30),
    count=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_a_split_never_divides_a_group(sizes: list[int], count: int, seed: int) -> None:
    rows = sum(sizes)
    count = min(count, rows - 1)
    ends = list(itertools.accumulate(sizes))
    groups = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True) if size > 1]
    mixed = np.random.default_rng(seed).permutation(rows)
    found = split(mixed, groups, count)
    held, trained = set(found.heldout.tolist()), set(found.training.tolist())
    assert not held & trained
    assert all(held.isdisjoint(group) or trained.isdisjoint(group) for group in groups)
    assert len(held) + len(trained) + found.left_out == rows
    assert len(held) <= count
    assert found.left_out <= rows // 20
    if sizes.count(1) >= count:
        assert len(held) == count
        assert found.left_out == 0


def test_without_groups_the_split_is_that_of_older_versions() -> None:
    mixed = np.random.default_rng(0).permutation(50)
    found = split(mixed, (), 7)
    assert set(found.heldout) == set(mixed[:7])
    assert set(found.training) == set(mixed[7:])


def test_rows_of_a_large_group_are_held_out_and_its_rest_is_left_out() -> None:
    groups = [list(range(4)), list(range(4, 100))]
    found = split(np.random.default_rng(0).permutation(100), groups, 2)
    assert (len(found.heldout), found.left_out, len(found.training)) == (2, 2, 96)
    none = split(np.random.default_rng(0).permutation(100), [list(range(100))], 2)
    assert (len(none.heldout), none.left_out, len(none.training)) == (0, 0, 100)


def test_the_groups_in_the_run_folder_are_used_while_they_belong_to_the_store(store: Path, tmp_path: Path) -> None:
    folder, rows = RunFolder(store), np.arange(ROWS)
    keep_groups(folder, rows, "mine")
    try:
        kept = json.loads((store / GROUPS).read_text())
        assert kept == {"store": "mine", "groups": find_groups([(ZarrStore(folder), 0)], rows)}
        folder.write(GROUPS, json.dumps({**kept, "groups": [[1, 2]]}).encode())
        keep_groups(folder, rows, "mine")
        assert groups_of(folder, rows, "mine") == [[1, 2]]
        assert groups_of(folder, rows, "another") == kept["groups"]
        folder.write(GROUPS, b"[")
        assert groups_of(folder, rows, "mine") == kept["groups"]
    finally:
        (store / GROUPS).unlink()
