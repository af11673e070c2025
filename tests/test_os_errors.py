"""Errors of the operating system become one sentence: each line of the table, wherever it is used."""

from __future__ import annotations

import errno
import os
import runpy
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from builders.command_line import one_error, run
from builders.workflows import small_settings
from dask.config import collect_yaml

import daskt2i
from daskt2i.config.changes import COCO_SOURCE
from daskt2i.encoders.weights import locate
from daskt2i.errors import ConfigError, StoreError, StoreFull
from daskt2i.facts.captions.rules import load_rules
from daskt2i.facts.coco_instances import read_instances
from daskt2i.os_errors import FULL, MEANINGS, MISSING, PART_IS_A_FILE, import_problem, meaning_of
from daskt2i.sources.coco import CocoSource
from daskt2i.store.run_folder import RunFolder


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/some/where")


@pytest.mark.parametrize("number", MEANINGS, ids=errno.errorcode.get)
def test_each_error_of_the_table_is_a_sentence_of_the_run_folder_or_passes_for_another_try(
    number: int, tmp_path: Path
) -> None:
    meaning = MEANINGS[number]
    raised = StoreFull if meaning is FULL else StoreError if meaning.lasting else OSError
    with pytest.raises(raised) as info, RunFolder(tmp_path).explaining("write a file"):
        raise error_of(number)
    if meaning.lasting:
        assert meaning.says in str(info.value).lower()
        assert meaning is FULL or ("(out)" in str(info.value) and meaning.advice in str(info.value))
    else:
        assert getattr(info.value, "errno", None) == number


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, FULL), (errno.EDQUOT, FULL), (errno.ENOENT, None)])
def test_a_full_disk_is_recognised_in_an_error_of_a_library_in_rust(number: int, kind: object) -> None:
    """safetensors raises an error that is no OSError."""
    assert meaning_of(RuntimeError(f"Error while serializing: I/O error: a text (os error {number})")) is kind


@pytest.mark.parametrize("number", MEANINGS, ids=errno.errorcode.get)
def test_each_error_of_the_table_is_one_sentence_at_the_end_of_a_command(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error_of(number)

    monkeypatch.setattr("daskt2i.run.run_settings", fails)
    said = one_error(run("status"))
    assert "/some/where" in said
    assert MEANINGS[number].says in said
    assert "bug" not in said


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError("AccessDenied"), "permission denied"),
        (FileNotFoundError("NoSuchKey"), MISSING.says),
        (NotADirectoryError("x"), PART_IS_A_FILE.says),
        (TimeoutError(), "the network failed"),
        (ConnectionResetError(), "the network failed"),
        (OSError(errno.EIO, "[StorageFull] no room"), FULL.says),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_object_stores_without_a_number_have_a_meaning(error: OSError, says: str) -> None:
    meaning = meaning_of(error)
    assert meaning is not None
    assert meaning.says == says


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), OSError(4711, "x")], ids=repr)
def test_other_errors_have_none(error: Exception) -> None:
    assert meaning_of(error) is None


# Places that cannot be run folders.


def a_file(base: Path) -> str:
    (base / "file").touch()
    return str(base / "file")


def below_a_file(base: Path) -> str:
    return a_file(base) + "/run"


def broken_link(base: Path) -> str:
    (base / "link").symlink_to("nothing")
    return str(base / "link")


def link_loop(base: Path) -> str:
    (base / "loop").symlink_to("loop")
    return str(base / "loop")


PLACES: dict[str, Callable[[Path], str]] = {
    "a file": a_file,
    "below a file": below_a_file,
    "a broken link": broken_link,
    "a loop of links": link_loop,
    "below a loop of links": lambda base: link_loop(base) + "/run",
    "a name that is too long": lambda base: str(base / ("x" * 300)),
    "a path that is too long": lambda base: str(base) + "/x" * 3000,
    "the root": lambda base: "/",
    "a device": lambda base: "/dev/null",
    "empty": lambda base: "",
    "blanks": lambda base: "  ",
    "null": lambda base: "a\0b",
    "nobody": lambda base: "~nosuchuser/run",
    "an address without a place": lambda base: "memory://",
    "no kind of address": lambda base: "nosuch://x/y",
}


@pytest.mark.parametrize("place", PLACES)
def test_an_impossible_run_folder_is_one_sentence_and_nothing_is_made(place: str, tmp_path: Path) -> None:
    out = PLACES[place](tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ConfigError, StoreError), match="out"):
        daskt2i.Run(small_settings(), out, progress=False)
    with pytest.raises((ConfigError, StoreError), match=r"out|path"):
        daskt2i.open_run(out)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("given", ["", "~nosuchuser/x"], ids=["empty", "nobody"])
@pytest.mark.parametrize(
    "command",
    [
        "encode --captions c --images",
        "encode --images i --captions",
        "encode --workflow",
        "encode --scheduler",
        "status --out",
        "sample --prompts",
        "scenes --out",
        "bench read --out",
        "bench read --shapes demo --dir",
        "bench encode --out",
        "bench sample --pipeline",
        "bench scheduler --out",
    ],
)
def test_an_option_with_an_impossible_path_is_one_sentence_and_nothing_is_made(
    command: str, given: str, tmp_path: Path
) -> None:
    said = one_error(run(*command.split(), given, cwd=tmp_path))
    assert "bug" not in said
    assert sorted(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["", "~nosuchuser/x"], ids=["empty", "nobody"])
def test_a_setting_with_an_impossible_path_is_one_sentence(given: str) -> None:
    with pytest.raises(ConfigError, match="images"):
        CocoSource(given, "captions.json")
    with pytest.raises(ConfigError, match="captions"):
        CocoSource("images", given)
    with pytest.raises(ConfigError, match=r"dataset\.facts\.rules"):
        load_rules(given)
    with pytest.raises(ConfigError, match=r"vae\.model"):
        locate(given, needs=["*.json"], setting="vae.model")
    with pytest.raises(ConfigError, match=r"coco_instances"):
        read_instances(given)
    workflow = daskt2i.load_workflow(settings={"dataset.source": {"class": COCO_SOURCE, "images": given}})
    assert workflow.dataset.source.absolute().arguments["images"] == given, (
        "the class refuses it, not the current folder"
    )


def test_a_damaged_configuration_of_dask_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="malformed") as info:
        list(collect_yaml([str(tmp_path / "bad.yaml")]))
    assert "bad.yaml" in (import_problem(info.value) or "")


@pytest.mark.parametrize(
    "text", ["a: &a {b: *a}", "daskt2i: {run: {1: 2}}", "~: 1", "array: 5", "dataframe: x"], ids=lambda text: text
)
def test_a_configuration_that_dask_cannot_use_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good YAML, but no configuration: Dask raises errors of any kind while it is imported."""
    (tmp_path / "bad.yaml").write_text(text)
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "bad.yaml"))
    with pytest.raises(Exception, match=r"\w") as info:
        runpy.run_path(dask.config.__file__)
    said = import_problem(info.value)
    assert said is not None
    assert said.startswith("Dask cannot use its configuration (")
    assert str(tmp_path / "bad.yaml") in said
    (tmp_path / "bad.yaml").write_text("daskt2i: {run: {batch: 2}}")
    assert runpy.run_path(dask.config.__file__)["config"]["daskt2i"]["run"]["batch"] == 2


def test_a_package_that_cannot_be_imported_is_named() -> None:
    said = import_problem(ModuleNotFoundError("No module named 'x'", name="x"))
    assert said is not None
    assert "The package x cannot be imported" in said
    assert import_problem(ValueError("x")) is None
