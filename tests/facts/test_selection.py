"""`dataset.where` keeps exactly the rows that the report counts, and the store records them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders.coco import WITH_PEOPLE, coco_source, settings, workflow_file, write_coco
from builders.command_line import one_error, one_object, run
from builders.workflows import fake_settings

import daskt2i
from daskt2i.config.component import Component
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.saved_workflow import settings_of
from daskt2i.encode.verify import verify
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.executors.serial import SerialExecutor
from daskt2i.facts import selection
from daskt2i.facts.selection import FACTS, SelectedSource, open_source, reading_component
from daskt2i.protocols import Source
from daskt2i.store.run_folder import RunFolder
from daskt2i.testing.source import SourceSuite
from daskt2i.types import Row


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data")


class TestSelected(SourceSuite):
    """A selection passes the conformance suite of sources."""

    @pytest.fixture
    def source(self, coco: Path) -> Source:
        return open_source(settings(coco, "captions > 0").dataset)


def test_the_rows_for_which_it_is_true_are_kept(coco: Path) -> None:
    source = open_source(settings(coco).dataset)
    rows = source.rows(0, 99)
    assert [row.index for row in rows] == list(range(6))
    assert [row.origin for row in rows] == WITH_PEOPLE
    assert [row.image_id for row in source.rows(2, 4)] == [104, 106]
    info = source.info()
    assert (info.rows, info.left_out, info.captions, info.slots) == (6, 4, 9, 2)
    assert source.read(rows[1]) == (coco / "images" / "002.bmp").read_bytes()


@pytest.mark.parametrize("text", ["True", "1 < 2", "people or not people"])
def test_an_expression_that_is_true_of_every_row_keeps_all(coco: Path, text: str) -> None:
    assert open_source(settings(coco, text).dataset).info().rows == 10


def test_a_worker_reads_with_the_row_number_of_the_other_source(coco: Path) -> None:
    """A source that draws by `row.index` needs its own row number."""
    workflow = fake_settings(rows=9)
    dataset = workflow.dataset.model_copy(update={"where": "image_id > 4"})
    chosen = open_source(dataset)
    worker: Source = reading_component(dataset).build(Source, "dataset.source")
    plain: Source = dataset.source.build(Source, "dataset.source")
    assert [worker.read(row) for row in chosen.rows(0, 9)] == [plain.read(row) for row in plain.rows(4, 9)]
    assert worker.read(Row(3, 4, "", ())) == plain.read(Row(3, 4, "", ()))
    assert reading_component(workflow.dataset) == workflow.dataset.source


def test_encoding_keeps_exactly_the_rows_that_the_report_counts(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskt2i.insights.page.render", lambda *_: "")  # takes seconds, and has its own tests
    given = ["-w", workflow_file(coco), "-s", "serial", "--json"]
    told = one_object(run("insights", *given, "-o", tmp_path / "report"))
    found = one_object(run("encode", *given, "-o", tmp_path / "out", "--where", "people"))
    assert (found["rows"], found["accepted"], found["left_out"]) == (
        told["people"],
        told["people"],
        10 - told["people"],
    )
    dataset = daskt2i.open_store(tmp_path / "out")
    assert dataset["image_id"].values.tolist() == [100 + row for row in WITH_PEOPLE]
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [line["file_name"] for line in lines] == [f"{row:03d}.bmp" for row in WITH_PEOPLE]
    state = one_object(run("status", "-w", given[1], "-o", tmp_path / "out", "--json"))
    assert (state["rows"], state["left_out"], state["complete"]) == (6, 4, True)
    assert "left out" in run("status", "-w", given[1], "-o", tmp_path / "out").stdout


def test_the_plan_says_how_many_are_left_out(coco: Path, tmp_path: Path) -> None:
    given = [
        "encode",
        "-w",
        workflow_file(coco),
        "-s",
        "serial",
        "-o",
        tmp_path / "out",
        "--where",
        "people",
        "--dry-run",
    ]
    assert one_object(run(*given, "--json"))["left_out"] == 4
    assert "4 images, by where: people" in run(*given).stdout
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_and_verifies(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    encode(prepare(settings(coco), out), SerialExecutor())
    (out / "receipts" / "chunk-0000001.json").unlink()
    monkeypatch.setattr(selection, "find_facts", lambda *_, **__: pytest.fail("the facts were found again"))
    summary = encode(prepare(settings(coco), out), SerialExecutor())
    assert (summary.done, summary.skipped, summary.accepted, summary.left_out) == (1, 1, 6, 4)
    own = settings_of(RunFolder(out))
    assert own is not None
    assert own.dataset.where == "people"
    verdict = verify(RunFolder(out), own)
    assert verdict.ok
    assert len(verdict.psnr) == 2


@pytest.mark.parametrize("change", ["none", "where", "rules", "captions"])
def test_another_selection_is_refused(coco: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    encode(prepare(settings(coco), out), SerialExecutor())
    other = settings(coco, None)
    if change == "where":
        other = settings(coco, 'people and gender == "male"')
    elif change == "rules":
        mine = tmp_path / "rules.yaml"
        mine.write_text(Path(selection.load_rules.__globals__["OURS"]).read_text() + "\n# mine\n")
        other = settings(coco, rules=str(mine))
    elif change == "captions":
        document = json.loads((coco / "captions.json").read_text())
        document["annotations"][0]["caption"] = "A dog"
        (coco / "captions.json").write_text(json.dumps(document))
        other = settings(coco)
    with pytest.raises(FingerprintMismatch, match="It was not touched"):
        prepare(other, out)
    if change == "where":
        with pytest.raises(FingerprintMismatch, match=r"dataset\.where\.expression"):
            prepare(other, out)
    if change != "captions":
        prepare(settings(coco, " ( people ) "), out)  # the same expression with other spacing


def test_a_store_without_where_keeps_its_old_fingerprint(coco: Path, tmp_path: Path) -> None:
    identity = prepare(settings(coco, None), tmp_path / "out").identity("fp32")
    assert sorted(identity) == ["encoders", "image", "layout", "precision", "rows_per_chunk", "source"]


def test_facts_of_files_select_too(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "data", missing=[2], same={6: 0})
    assert [
        r.origin for r in open_source(settings(coco, "people and usable and not duplicate").dataset).rows(0, 9)
    ] == [
        0,
        4,
        8,
        9,
    ]
    assert [r.origin for r in open_source(settings(coco, "not usable").dataset).rows(0, 9)] == [2, 7]
    assert open_source(settings(coco, "min(width, height) == 40").dataset).info().rows == 9


def test_boxed_people_select_too(coco: Path) -> None:
    boxes = {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 101, "category_id": 1, "segmentation": [[1, 2]]},
            {"image_id": 101, "category_id": 1},
            {"image_id": 103, "category_id": 2},
        ],
    }
    path = coco / "instances.json"
    path.write_text(json.dumps(boxes))
    chosen = open_source(settings(coco, "persons == 2", coco_instances=str(path)).dataset)
    assert [row.origin for row in chosen.rows(0, 9)] == [1]
    for text in ("{}", "[", '{"categories": [{"id": 3, "name": "cat"}], "annotations": []}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"instance|category"):
            open_source(settings(coco, "persons == 2", coco_instances=str(path)).dataset)


def test_facts_in_the_run_folder_are_used_only_for_the_same_data_and_rules(coco: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    plain: Source = Component.model_validate(coco_source(coco)).build(Source, "x")
    first = settings(coco).dataset
    open_source(first, folder, keep=False)
    assert not folder.exists(FACTS)
    open_source(first, folder)
    assert selection.known_facts(first, plain, folder, pictures=False) is not None
    assert selection.known_facts(first, plain, folder, pictures=True) is None
    near = settings(coco, near=3).dataset
    assert selection.known_facts(near, plain, folder, pictures=False) is None
    folder.write(FACTS, b"PAR1 not a table PAR1")
    assert selection.known_facts(first, plain, folder, pictures=False) is None
    open_source(first, folder)


def test_facts_of_a_mount_that_is_missing_are_not_kept(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "data", [["a man"]] * 4, missing=range(4))
    (coco / "images" / "others").mkdir()
    folder = RunFolder(tmp_path / "out")
    open_source(settings(coco, "people or usable").dataset, folder)
    assert not folder.exists(FACTS)


def test_a_wrong_where_is_one_error_without_a_traceback(coco: Path, tmp_path: Path) -> None:
    given = ["encode", "-w", workflow_file(coco), "-s", "serial", "-o", tmp_path / "out", "--where"]
    assert ">>>peple<<<" in one_error(run(*given, "peple and captions > 2"))
    assert "keeps none of 10 rows" in one_error(run(*given, "captions > 7"))
    assert "dataset.where" in one_error(run(*given[:-1], "--set", "dataset.where=3"))
    assert not (tmp_path / "out" / "latents.zarr").exists()


def test_a_source_on_a_worker_is_small(coco: Path) -> None:
    component = reading_component(settings(coco).dataset)
    assert component.class_path == f"{SelectedSource.__module__}.SelectedSource"
    assert len(component.model_dump_json()) < 500
