"""A run folder on the hub: what is sent, in which order, after a stop, and that it is read there as here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builders.command_line import one_object, run
from builders.hub import READER, WRITER, Hub, hub_here
from builders.workflows import TEXT, fake_settings, finish
from loader.test_dataset import encoded

import daskt2i
from daskt2i.errors import AccessRefused, ConfigError, StoreError, TransportFailed
from daskt2i.export.hub.dataset_card import dataset_card, licence_for, size_category
from daskt2i.export.hub.driver import push
from daskt2i.export.hub.files import GROUP
from daskt2i.export.hub.result import PushResult
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import RowsFile, write_rows
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

NAME = "me/latents"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("push") / "run")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_here(monkeypatch) as found:
        yield found


def _push(store: Path, hub: Hub, **given: bool) -> PushResult:
    return push(RunFolder(store), NAME, endpoint=hub.address, **given)


def test_a_pushed_store_is_read_at_its_address_as_here(store: Path, hub: Hub) -> None:
    made = _push(store, hub)
    here = daskt2i.open_store(store)
    there = daskt2i.open_store(made.address, {"endpoint": hub.address, "token": WRITER})
    assert dict(there.sizes) == dict(here.sizes)
    assert there[["latent_mean", "caption"]].load().equals(here[["latent_mean", "caption"]].load())
    assert made.address == f"hf://datasets/{NAME}"
    assert made.sent == len(made.files) > 100
    assert hub.private[NAME]


def test_the_files_by_which_readers_find_the_store_come_last(store: Path, hub: Hub) -> None:
    hub.breaks_at = 2
    with pytest.raises(TransportFailed, match="push again"):
        _push(store, hub)
    assert 0 < max(count for _, count in hub.commits) <= 100
    assert not [name for name in hub.files[NAME] if name.endswith(("zarr.json", "manifest.parquet"))]


def test_a_stopped_push_goes_on_where_it_was(store: Path, hub: Hub) -> None:
    hub.breaks_at = 1
    with pytest.raises(TransportFailed):
        _push(store, hub)
    before = hub.uploads
    hub.breaks_at = None
    made = _push(store, hub)
    assert 0 < made.sent < len(made.files)
    assert hub.uploads > before
    again = _push(store, hub)
    ends = [name for name in made.files if name.endswith(("zarr.json", "manifest.parquet", "workflow.yaml"))]
    assert again.sent == len(ends)


def test_a_store_that_changed_is_taken_away_before_its_shards_are_replaced(
    store: Path, hub: Hub, tmp_path: Path
) -> None:
    _push(store, hub)
    own = Path(shutil.copytree(store, tmp_path / "run"))
    shard = next(path for path in sorted((own / "latents.zarr" / "caption").iterdir()) if path.name.startswith("c"))
    shard.write_bytes(shard.read_bytes() + b"longer")
    (own / "receipts" / sorted(path.name for path in (own / "receipts").iterdir())[-1]).unlink()
    hub.breaks_at = len(hub.commits) + 1
    with pytest.raises(TransportFailed):
        _push(own, hub)
    assert GROUP not in hub.files[NAME]
    hub.breaks_at = None
    assert _push(own, hub).removed == 1
    assert GROUP in hub.files[NAME]


def test_a_dry_run_lists_files_and_bytes_and_needs_no_token(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    told = one_object(run("push", "--out", str(store), "--to", NAME, "--dry-run", "--json"))
    assert told["sent"] == 0
    assert told["bytes"] == sum((store / name).stat().st_size for name in told["files"])
    with daskt2i.open_run(store, progress=False) as found:
        shown = repr(found.push(NAME, dry_run=True))
    assert "latents.zarr/latent_mean" in shown
    assert "11 files" in shown


def test_a_push_has_the_data_set_and_a_card_with_the_header_of_the_hub(store: Path, hub: Hub, tmp_path: Path) -> None:
    own = Path(shutil.copytree(store, tmp_path / "run"))
    for name in ("train/checkpoints/1", "pipeline/unet", "samples", "errors"):
        (own / name).mkdir(parents=True)
        (own / name / "x").write_text("x")
    _push(own, hub, public=True)
    tops = {name.partition("/")[0] for name in hub.files[NAME]}
    assert tops == {"README.md", "daskt2i-run.json", "workflow.yaml", "manifest.parquet", "latents.zarr", "receipts"}
    card = hub.files[NAME]["README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "unknown"
    assert header["size_categories"] == ["n<1K"]
    assert header["task_categories"] == ["text-to-image"]
    assert f'open_store("hf://datasets/{NAME}")' in card
    assert WRITER not in card
    assert not hub.private[NAME]


def test_the_licence_of_the_header_is_one_that_the_hub_knows() -> None:
    assert licence_for({}) == "unknown"
    assert licence_for({"CC-BY-4.0": 3}) == "cc-by-4.0"
    assert licence_for({"CC BY 2.0": 3}) == "cc-by-2.0"
    assert licence_for({"http://creativecommons.org/licenses/by-nc-sa/2.0/": 3}) == "cc-by-nc-sa-2.0"
    assert licence_for({"No known copyright restrictions": 3}) == "other"
    assert licence_for({"CC-BY-4.0": 3, "CC-BY-2.0": 1}) == "other"


@pytest.mark.parametrize(
    ("rows", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (82_783, "10K<n<100K"), (12_000_000, "10M<n<100M"), (2 * 10**9, "1B<n<10B")],
)
def test_the_size_is_a_category_of_the_hub(rows: int, category: str) -> None:
    assert size_category(rows) == category


def test_a_repository_of_others_is_refused_and_a_new_one_taken(store: Path, hub: Hub) -> None:
    hub.files[NAME] = {"model.safetensors": b"x"}
    with pytest.raises(ConfigError, match="such as model"):
        _push(store, hub)
    assert hub.files[NAME] == {"model.safetensors": b"x"}
    assert push(RunFolder(store), "me/another", endpoint=hub.address).sent


def test_a_token_that_may_not_write_is_refused_before_anything_is_sent(
    store: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in (READER, "hf_unknown_token"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(AccessRefused, match="Nothing was sent") as caught:
            _push(store, hub)
        assert token not in str(caught.value)
    assert not hub.files


def test_what_the_hub_does_not_take_is_told_in_its_words(store: Path, hub: Hub) -> None:
    hub.breaks_at, hub.breaks_with = 0, 400
    with pytest.raises(StoreError, match="It is not taken") as caught:
        _push(store, hub)
    assert "What was sent before stays" in str(caught.value)


def test_without_a_token_or_a_network_one_sentence_says_so(
    store: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TransportFailed, match="Nothing was sent"):
        push(RunFolder(store), NAME, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        _push(store, hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="There is no token"):
        _push(store, hub)
    assert not hub.files


@pytest.mark.parametrize("name", ["latents", "me/", "me/a/b", "me/la tents", ""])
def test_a_name_that_is_none_is_refused(store: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="give OWNER/NAME"):
        push(RunFolder(store), name, dry_run=True)


def test_a_store_that_is_not_finished_is_not_pushed(store: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(store, tmp_path / "run"))
    (own / "manifest.parquet").unlink()
    with pytest.raises(StoreError, match="no finished store"):
        push(RunFolder(own), NAME, dry_run=True)


def test_a_column_goes_with_its_store_and_not_alone(tmp_path: Path) -> None:
    own = tmp_path / "run"
    with daskt2i.Run(fake_settings(), own, scheduler="serial", progress=False) as found:
        found.encode()
        found.add("again", TEXT)
    told = push(RunFolder(own), NAME, dry_run=True)
    assert "columns/again/latents.zarr/text_states/zarr.json" in told.files
    assert "columns/again/manifest.parquet" in told.files
    names = [name for name, _ in told.view().rows]
    assert [name for name in names if "columns" in name] == ["columns/again"], "one line, not one for each array"
    with pytest.raises(ConfigError, match="give the run folder of the store"):
        push(RunFolder(own / "columns" / "again"), NAME, dry_run=True)
    (own / "columns" / "again" / "manifest.parquet").unlink()
    assert not [name for name in push(RunFolder(own), NAME, dry_run=True).files if name.startswith("columns/")]


def test_parts_that_count_go_with_their_store_and_removed_rows_are_not_counted(tmp_path: Path) -> None:
    own = tmp_path / "run"
    finish(fake_settings(), own)
    finish(fake_settings(rows=8), own / "parts" / "0001")
    (own / "parts" / "0001" / "rows.parquet").write_bytes(b"its rows")
    finish(fake_settings(rows=4), own / "parts" / "0002")
    write_rows(RunFolder(own), RowsFile(("0001",)).without_rows("", [0, 1, 2]))
    told = push(RunFolder(own), NAME, dry_run=True)
    assert {"rows.json", "parts/0001/manifest.parquet", "parts/0001/latents.zarr/zarr.json"} <= told.files.keys()
    assert "parts/0001/rows.parquet" in told.files, "without it nobody can go on with the part"
    assert not [name for name in told.files if name.startswith("parts/0002/")]
    assert [name for name, _ in told.view().rows if "parts" in name] == ["parts/0001"]
    card = dataset_card(RunFolder(own), about_store(ZarrStore(RunFolder(own))) or {}, NAME)
    assert "Rows: 25, of which 25 are accepted" in card
