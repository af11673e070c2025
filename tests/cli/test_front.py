"""The command line is a thin layer: each command calls one method of `Run`, or one function."""

from __future__ import annotations

import ast
import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders.command_line import one_error, one_object, run
from builders.workflows import fake_data, write_workflow
from rich.console import Console

from daskt2i import workflow
from daskt2i.cli.bench import command as bench
from daskt2i.cli.console import width
from daskt2i.cli.front import parse_sets
from daskt2i.display.tables import result_table
from daskt2i.errors import ConfigError
from daskt2i.run import Run
from daskt2i.sample.driver import SampleResult
from daskt2i.store.run_folder import RunFolder

CALLS = {
    "run": {"plan", "run_all"},
    "encode": {"plan", "encode"},
    "train": {"with_training", "train"},
    "train_vae": {"train_vae"},
    "sample": {"sample"},
    "evaluate": {"evaluate"},
    "status": {"status"},
    "report": {"report"},
    "doctor": {"doctor"},
    "verify": {"verify"},
    "add": {"add"},
    "append": {"append"},
    "remove": {"remove"},
    "replace": {"replace"},
    "export": {"export"},
    "push": {"push"},
    "rejected": {"rejected_rows"},
    "insights": {"insights"},
    "look": {"look"},
    "estimate": {"estimate"},
    "suggest": {"suggest"},
    "scenes": {"write_scenes"},
    "studio": {"serve"},
    "bench encode": {"EncodeBench"},
    "bench scheduler": {"SchedulerBench"},
    "bench read": {"bench_read"},
    "bench loaders": {"bench_loaders"},
    "bench peers": {"PeerBench"},
    "bench train": {"bench_train"},
    "bench sample": {"bench_sample"},
    "bench device": {"bench_device"},
}
"""Command -> the method of `Run`, or the one function, that does its work. With --dry-run it calls `plan` instead."""

VERBS = {name for name in dir(Run) if not name.startswith("_")} | {
    "status",
    "report",
    "look",
    "add",
    "append",
    "remove",
    "replace",
    "export",
    "push",
    "rejected_rows",
    "suggest",
    "load_pipeline",
    "doctor",
}

OF_THE_LINE = (
    "daskt2i.cli.",
    "daskt2i.errors",
    "daskt2i.store.run_folder",
    "daskt2i.display.",
    "daskt2i.machine.machine",
    "daskt2i.addresses",
    "daskt2i.bench.device.markdown",
)
"""Modules that every command may use: options and printing, errors, names and pages of reports, display, cores,
paths."""

READS_OPTIONS = {"read_prompts", "ORIGINS", "PROMPT", "EncodeBenchSettings", "PeerSettings", "SimulationSettings"}
"""Functions that turn options into arguments: for a file of prompts, and for the settings of a measurement."""


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in workflow.app.registered_commands:
        assert command.callback is not None
        yield command.callback.__name__, command.callback
    for command in bench.app.registered_commands:
        assert command.callback is not None
        yield f"bench {command.name}", command.callback


def called(function: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The methods of `Run` that a command calls, and the names that it imports from rooms that do work."""
    tree = ast.parse(inspect.getsource(function))
    runs = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and not ast.unparse(item.context_expr).startswith("_")
    }
    methods = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in runs
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith(OF_THE_LINE)
        for alias in node.names
    }
    return methods, imported - READS_OPTIONS


@pytest.mark.parametrize(("name", "function"), list(commands()), ids=[name for name, _ in commands()])
def test_a_command_calls_one_method_or_one_function(name: str, function: Callable[..., Any]) -> None:
    methods, imported = called(function)
    assert methods | imported == CALLS[name]
    assert methods <= VERBS
    assert len(CALLS[name] - {"plan", "with_training"}) == 1  # these two only plan


def test_every_command_is_on_the_list() -> None:
    assert {name for name, _ in commands()} == set(CALLS)


def test_every_method_that_computes_has_a_command() -> None:
    """Except those that return Python objects, and requests: any program can write their files."""
    computes = {name for name in VERBS if getattr(getattr(Run, name), "__wrapped__", None) is not None}
    others = {"load_pipeline", "painter", "curves", "sheets", "suggestions", "with_settings"}
    others |= {"request_pictures", "request_stop"}
    planned = {"with_training"}
    assert (computes - others) | planned == {name for calls in CALLS.values() for name in calls if name in VERBS}


# Settings of a run folder


def made(folder: Path) -> Path:
    """A run folder whose settings differ from all shipped workflows."""
    settings = write_workflow(folder / "mine.yaml", rows=12)
    out = folder / "out"
    found = one_object(run("encode", "-w", settings, "-o", out, "-s", "serial", "--json"))
    assert found["rows"] == 12
    return out


def test_every_command_uses_the_settings_of_the_run_folder(tmp_path: Path) -> None:
    out = made(tmp_path)
    assert one_object(run("status", "-o", out, "--json"))["complete"]
    assert one_object(run("verify", "-o", out, "--json"))["ok"]
    assert one_object(run("encode", "-o", out, "--dry-run", "--json"))["rows"] == 12
    again = one_object(run("encode", "-o", out, "-s", "serial", "--json"))
    assert again["chunks"] == {"done": 0, "skipped": 2, "failed": 0}
    assert one_object(run("train", "-o", out, "--dry-run", "--json", "--set", "train.validation=4"))["rows"] == 12
    report = one_object(run("insights", "-o", out, "-s", "serial", "--no-pictures", "--no-tokens", "--json"))
    assert report["rows"] == 12


def test_inside_a_run_folder_no_option_is_needed(tmp_path: Path) -> None:
    out = made(tmp_path)
    found = one_object(run("status", "--json", cwd=out))
    assert found["out"] == str(out)
    assert found["complete"]


def test_a_folder_with_only_a_workflow_file_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(fake_data()))
    assert "runs/demo" in one_error(run("status", cwd=tmp_path))


def test_settings_of_the_command_line_override_those_of_the_folder(tmp_path: Path) -> None:
    out = made(tmp_path)
    found = one_object(
        run("train", "-o", out, "--dry-run", "--json", "--set", "train.steps=7", "--set", "train.validation=4")
    )
    assert found["steps"] == 7


def test_a_named_workflow_is_compared_with_the_settings_of_the_folder(tmp_path: Path) -> None:
    out = made(tmp_path)
    other = write_workflow(tmp_path / "other.yaml", rows=12, resolution=64)
    done = run("status", "-w", other, "-o", out)
    assert done.returncode == 0
    assert "dataset.image.resolution: 32 there, 64 now" in done.stderr
    assert done.stderr.count("was made with other settings") == 1
    assert run("status", "-w", tmp_path / "mine.yaml", "-o", out).stderr == ""


def test_a_shipped_workflow_is_compared_with_the_settings_of_the_folder(tmp_path: Path) -> None:
    out = made(tmp_path)
    done = run("status", "-w", "demo", "-o", out)
    assert "was made with other settings" in done.stderr


# --set


def test_values_of_set_are_yaml_and_the_last_one_wins() -> None:
    found = parse_sets(
        ["run.batch=4", "run.device=cpu", "run.batch=8", "sample.prompts=[a, b]", "name=x", "scenes=null"]
    )
    assert found == {"run.device": "cpu", "run.batch": 8, "sample.prompts": ["a", "b"], "name": "x", "scenes": None}
    assert list(found)[1] == "run.batch", "in the place of the last one"


@pytest.mark.parametrize("text", ["run.batch", "batch=4", "=4", "run..batch=4", "run.batch=[1", "run.batch=2020-13-01"])
def test_a_set_without_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_sets([text])


def test_a_table_in_a_pipe_keeps_a_long_path_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path, pipe = f"/{'folder/' * 60}sheet.png", io.StringIO()
    Console(file=pipe, width=width(pipe)).print(result_table(SampleResult((path,), 0, 1.0, (), RunFolder("x"))))
    assert [line.split() for line in pipe.getvalue().splitlines() if "sheet" in line] == [["sheet", path]]
    monkeypatch.setenv("COLUMNS", "80")
    assert width(pipe) is None, "rich reads it"
