"""Names that stand in the files of users: none of them may go, and each new one is put on the list.

    python tests/test_frozen_names.py       # add what is new to tests/golden/frozen_names.json; takes nothing away

Covers: class paths of workflow and cluster files and the arguments of those classes; settings and their choices;
commands and their options; files of a run folder; keys of receipts, manifest, store, checkpoints, pipeline, metrics and
of what `--json` prints; kinds of events that ranks tell, with their fields; reasons and errors by name.
Does not cover: values and meanings (`tests/golden/record.py` holds those), names of tensors, names that only Python
code uses.

Where a class lies may change; where this module finds it, then changes too, but not the list. Keys come from a run of
the fakes where it makes them, else from the source of the function that writes them: neither needs torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

LIST = Path(__file__).parent / "golden" / "frozen_names.json"

SECTIONS = (
    *(
        "class paths",
        "shipped models",
        "settings",
        "choices",
        "defaults",
        "facts",
        "commands",
        "run folder",
        "store",
        "receipt",
        "manifest",
    ),
    *("checkpoint", "pipeline", "metrics", "json", "events", "reasons", "errors"),
)

COMPONENTS = (
    "daskt2i.sources.coco.CocoSource",
    "daskt2i.sources.fake.FakeSource",
    "daskt2i.sources.hf.HfSource",
    "daskt2i.sources.parquet.ParquetSource",
    "daskt2i.sources.webdataset.WebDatasetSource",
    "daskt2i.sources.folder.FolderSource",
    "daskt2i.sources.karpathy.KarpathySource",
    "daskt2i.sources.scenes.ScenesSource",
    "daskt2i.sources.table.CsvSource",
    "daskt2i.sources.table.JsonlSource",
    "daskt2i.encoders.fake.FakeImageEncoder",
    "daskt2i.encoders.fake.FakeTextEncoder",
    "daskt2i.encoders.features.vision.VisionEncoder",
    "daskt2i.encoders.joint.text.JointTextEncoder",
    "daskt2i.encoders.text.TextEncoder",
    "daskt2i.encoders.vae.VaeEncoder",
)
"""Classes that a workflow may name, wherever they lie now: these paths must go on to work."""


def _package() -> Path:
    found = importlib.util.find_spec("daskt2i")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _shipped() -> Iterator[Any]:
    """Every value in the YAML files that we ship, with the name before it."""
    from daskt2i.config.workflow_file import shipped

    package = _package()
    for path in [*shipped("workflows").glob("*.yaml"), *shipped("clusters").glob("*.yaml"), *package.glob("*.yaml")]:
        yield from _pairs(yaml.safe_load(path.read_text(encoding="utf-8")))


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, one in value.items() if isinstance(value, dict) else ():
        yield key, one
        yield from _pairs(one)
    for one in value if isinstance(value, list) else ():
        yield from _pairs(one)


def class_paths() -> Iterator[str]:
    """Classes of shipped files and those that a user may name, each with its arguments and their defaults."""
    named = {value for key, value in _shipped() if key in ("class", "cluster") and isinstance(value, str)}
    for path in sorted({*named, *COMPONENTS}):
        yield path
        module, _, name = path.rpartition(".")
        if module.startswith("daskt2i."):
            try:
                kind = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError) as error:
                yield f"{path} cannot be imported: {error}"
                continue
            for argument in inspect.signature(kind).parameters.values():
                yield f"{path}({str(argument.replace(annotation=argument.empty)).replace(' ', '')})"


def shipped_models() -> Iterator[str]:
    """Models inside the package, as a workflow names them."""
    yield from (value for _, value in _shipped() if isinstance(value, str) and value.startswith("daskt2i:"))


def _fields(kind: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of a model and of those inside it, with dots between."""
    for name, field in kind.model_fields.items():
        key = f"{before}{field.alias or name}"
        yield key, field.annotation
        for inner in _models(field.annotation):
            yield from _fields(inner, f"{key}.")


def _models(annotation: Any) -> Iterator[Any]:
    from pydantic import BaseModel

    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)


def settings() -> Iterator[str]:
    """Every setting that a workflow file or `--set` may name, also by its old name."""
    from daskt2i.config.settings import Workflow

    keys = [key for key, _ in _fields(Workflow)]
    yield from (key for new in keys for key in (new, *_old_names(new)))


def _old_names(key: str) -> Iterator[str]:
    """Names under which a setting is read besides its own."""
    from daskt2i.config.renamed import RENAMED

    yield from (f"{row.section}.{row.old}" for row in RENAMED if key == f"{row.section}.{row.new}")


def choices() -> Iterator[str]:
    """What settings with a few possible values may be."""
    from daskt2i.config.settings import Workflow

    def values(annotation: Any) -> Iterator[Any]:
        if get_origin(annotation) is Literal:
            yield from get_args(annotation)
        else:
            for one in get_args(annotation):
                yield from values(one)

    for key, annotation in _fields(Workflow):
        yield from (f"{name}={value}" for name in (key, *_old_names(key)) for value in values(annotation))


def defaults() -> Iterator[str]:
    """Keys that we put into `dask.config`, which users set in files and environment variables, also by old names."""
    ours = yaml.safe_load((_package() / "config" / "defaults.yaml").read_text(encoding="utf-8"))
    yield from ours
    for key in _keys(ours["daskt2i"]):
        yield from (f"daskt2i.{name}" for name in (key, *_old_names(key)))


def facts() -> Iterator[str]:
    """What `where` may name, the values of those that have a few, the columns of insights.csv, and of facts.parquet
    the key under which it says what decided it."""
    from daskt2i.facts.selection import _KEY
    from daskt2i.facts.table import COLUMNS, FACTS

    yield from FACTS
    yield from (f"{name}={value}" for name, fact in FACTS.items() for value in fact.values)
    yield from (f"insights.csv: {name}" for name in COLUMNS)
    yield f"facts.parquet: {_KEY.decode()}"


def commands() -> Iterator[str]:
    """Every command with its options."""
    import typer.main

    from daskt2i.workflow import app

    def walk(command: Any, name: str) -> Iterator[str]:
        yield name
        for option in command.params:
            for word in (*option.opts, *option.secondary_opts):
                if word != "--help":
                    yield f"{name} {word}".strip()
        for inner, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{name} {inner}".strip())

    yield from walk(typer.main.get_command(app), "")


# A run of the fakes


def _run() -> dict[str, Any]:
    """What a small run makes: its summary, status and verdict, and names and keys of its files."""
    import pyarrow.parquet as pq
    from builders.workflows import fake_settings, finish

    from daskt2i.encode.verify import verify
    from daskt2i.store.run_folder import RunFolder
    from daskt2i.store.status import status

    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        workflow = fake_settings(source={"missing": [3]})
        summary = finish(workflow, out)
        folder = RunFolder(out)
        receipts = [json.loads(path.read_bytes()) for path in sorted((out / "receipts").iterdir())]
        said = {"encode": summary, "status": status(folder), "verify": verify(folder, None)}
        return {
            "receipt": {key for receipt in receipts for key in _keys(receipt)},
            "manifest": [f"{f.name}: {f.type}" for f in pq.read_schema(out / "manifest.parquet")],
            "store": _keys(json.loads((out / "latents.zarr" / "zarr.json").read_bytes())["attributes"]),
            "files": {re.sub(r"[0-9]+", "N", p.relative_to(out).as_posix()) for p in out.rglob("*") if p.is_file()},
            "json": {f"{command}: {key}" for command, found in said.items() for key in _keys(found.to_json())},
        }


_made: dict[str, Any] = {}


def _of_run(what: str) -> Any:
    if not _made:
        _made.update(_run())
    return _made[what]


def _keys(value: Any, before: str = "") -> set[str]:
    """Names in a JSON value, with dots between; of a list those of all its parts."""
    found: set[str] = set()
    for key, one in value.items() if isinstance(value, dict) else ():
        found |= {f"{before}{key}"} | _keys(one, f"{before}{key}.")
    for one in value if isinstance(value, list) else ():
        found |= _keys(one, before)
    return found


def _said(*functions: Callable[..., Any]) -> set[str]:
    """Names that the source of a function gives to what it returns or writes: keys of dicts, names of arguments.

    More than is printed, perhaps, and never less.
    """
    found: set[str] = set()
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            texts: list[Any] = []
            if isinstance(node, ast.Dict):
                texts = list(node.keys)
            elif isinstance(node, ast.DictComp | ast.GeneratorExp):
                texts = [text for one in node.generators for text in getattr(one.iter, "elts", [])]
            elif isinstance(node, ast.Assign):
                texts = [one.slice for one in node.targets if isinstance(one, ast.Subscript)]
            found |= {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
    return found


def run_folder() -> Iterator[str]:
    """Files and folders that a run makes."""
    from daskt2i.config import changes
    from daskt2i.estimate import forecast
    from daskt2i.facts import selection
    from daskt2i.insights import driver as insights
    from daskt2i.model import autoencoder, pipeline
    from daskt2i.sample import driver as sample
    from daskt2i.store import run_folder as folder
    from daskt2i.train import autoencoder_rank as train_vae
    from daskt2i.train import checkpoint, metrics

    yield from (folder.WORKFLOW, folder.STORE, folder.RECEIPTS, folder.MANIFEST, folder.LOCK, folder.TRAIN)
    yield from (folder.PIPELINE, folder.SAMPLES, folder.REPORTS, metrics.METRICS, metrics.EVENTS)
    yield from (checkpoint.CHECKPOINTS, f"{checkpoint.CHECKPOINTS}/{checkpoint._NAME.pattern}")
    yield from (f"{folder.PIPELINE}/{name}" for name in (pipeline.INDEX, pipeline.ABOUT))
    yield from (autoencoder.FOLDER, f"{autoencoder.FOLDER}/{pipeline.ABOUT}", train_vae.PREFIX, changes.SCENES)
    yield from (insights.HTML, insights.JSON, insights.CSV, forecast.ESTIMATE, selection.FACTS, sample._SAMPLES)
    yield from _of_run("files")


def store() -> Iterator[str]:
    """Keys of the attributes of a store; among them the names of the arrays that every store has."""
    yield from _of_run("store")


def receipt() -> Iterator[str]:
    """Keys of a receipt."""
    yield from _of_run("receipt")


def manifest() -> Iterator[str]:
    """Columns of the manifest, with their types."""
    yield from _of_run("manifest")


def checkpoint() -> Iterator[str]:
    """Keys of the label beside a checkpoint's tensors."""
    from daskt2i.store.artifacts.checkpoint_labels import CheckpointLabel
    from daskt2i.train.loop import _Run
    from daskt2i.train.optimisation.train_state import TrainState

    yield from _said(CheckpointLabel.to_json)
    yield from (f"about.{key}" for key in _said(TrainState.about, _Run._save))


def pipeline() -> Iterator[str]:
    """Keys of `pipeline/daskt2i.json` and `pipeline/model_index.json`. The first is in `vae/` too."""
    from daskt2i.model import pipeline as module
    from daskt2i.model.pipeline_forms import FORMS
    from daskt2i.store.artifacts import publish
    from daskt2i.train import resume
    from daskt2i.train.denoiser_rank import Denoiser

    yield from _said(module.publish, module._colours, Denoiser._publish, resume.label, publish._complete)
    yield from _said(publish._content)
    for form in FORMS.values():
        yield from (form.denoiser, *form.index, *form.text.index)
    yield from (module.CLASS, module.SIDES)


def metrics() -> Iterator[str]:
    """Figures in a line of metrics.jsonl."""
    from daskt2i.model.autoencoder_loss import TERMS
    from daskt2i.train.figures.step_figures import StepFigures
    from daskt2i.train.metrics import Metrics
    from daskt2i.train.optimisation.train_state import TrainState
    from daskt2i.train.resume import RECORDED

    yield from _said(Metrics.add, StepFigures.settle, StepFigures._line, TrainState.learn)
    yield "heldout_loss"
    yield from (f"new_{name}" for name in RECORDED)
    yield from (f"vae: {name}" for name in TERMS)


def json_() -> Iterator[str]:
    """What `--json` prints."""
    from daskt2i.cli import data
    from daskt2i.encode.prepare import EncodePlan
    from daskt2i.estimate.forecast import ForecastComparison
    from daskt2i.estimate.result import EstimateResult
    from daskt2i.evaluation.clip_scores import ClipScores
    from daskt2i.evaluation.judging import FIELDS, Shares
    from daskt2i.evaluation.result import EvaluateResult
    from daskt2i.export.card import about_export
    from daskt2i.export.hub.result import PushResult
    from daskt2i.export.result import ExportResult
    from daskt2i.insights.rejected_rows import RejectedRows
    from daskt2i.insights.report import InsightsResult
    from daskt2i.sample.driver import SampleResult
    from daskt2i.train.autoencoder_rank import Autoencoder
    from daskt2i.train.denoiser_rank import Denoiser
    from daskt2i.train.driver import TrainResult
    from daskt2i.train.loop import _Run
    from daskt2i.train.plan import TrainPlan
    from daskt2i.train.whole_run import RunPlan, RunResult

    yield from (f"evaluate: {name}" for name in FIELDS)
    yield from _of_run("json")
    sources: dict[str, tuple[Callable[..., Any], ...]] = {
        "encode --dry-run": (EncodePlan.to_json,),
        "train --dry-run": (TrainPlan.to_json,),
        "train": (TrainResult.to_json, Denoiser.finish, _Run._speed),
        "train-vae": (Autoencoder.finish,),
        "run": (RunResult.to_json,),
        "run --dry-run": (RunPlan.to_json,),
        "sample": (SampleResult.to_json,),
        "evaluate": (EvaluateResult.to_json, Shares.to_json, ClipScores.to_json),
        "insights": (InsightsResult.to_json,),
        "estimate": (EstimateResult.to_json,),
        "forecast": (ForecastComparison.to_json,),
        "export": (ExportResult.to_json,),
        "daskt2i-export.json": (about_export,),
        "push": (PushResult.to_json,),
        "rejected": (RejectedRows.to_json,),
        "suggest": (data.suggest,),
        "scenes": (data.scenes,),
    }
    yield from (f"{command}: {key}" for command, functions in sources.items() for key in _said(*functions))


def events() -> Iterator[str]:
    """Kinds of events that ranks and launcher tell, with the fields that are written out."""
    texts = (path.read_text(encoding="utf-8") for path in _package().rglob("*.py"))
    for text in (text for text in texts if "tell(" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and _called(node) == "tell" and node.args:
                kind = node.args[0]
                if isinstance(kind, ast.Constant) and re.fullmatch("[a-z]+", str(kind.value)):
                    yield str(kind.value)
                    yield from (f"{kind.value}.{word.arg}" for word in node.keywords if word.arg)
    from daskt2i.errors import ConfigError
    from daskt2i.portable_errors import to_json

    yield from (f"error.{name}" for name in to_json(ConfigError("said")))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def reasons() -> Iterator[str]:
    """Why rows are rejected, as receipts and manifest say it."""
    from daskt2i.errors import Reason

    yield from (str(reason) for reason in Reason)


def errors() -> Iterator[str]:
    """Errors by name: ranks tell them so, and users catch them."""
    from daskt2i import errors as module

    yield from (name for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, Exception))


def found(section: str) -> set[str]:
    """The names of a section, as the code has them now."""
    return set(globals()[{"json": "json_"}.get(section, section.replace(" ", "_"))]())


@pytest.mark.parametrize("section", SECTIONS)
def test_names_in_files_of_users_stay_and_new_ones_are_listed(section: str) -> None:
    held, now = set(json.loads(LIST.read_text(encoding="utf-8"))[section]), found(section)
    gone, new = sorted(held - now), sorted(now - held)
    assert not gone, (
        f"{section}: {', '.join(gone)} is gone. Files of users hold this name, so a reader for the old name must be "
        "kept; then let this test find it there."
    )
    assert not new, f"{section}: {', '.join(new)} is new. Run python {Path(__file__).name}, which puts it on the list."


if __name__ == "__main__":
    listed = json.loads(LIST.read_text(encoding="utf-8")) if LIST.exists() else {}
    whole = {section: sorted({*listed.get(section, []), *found(section)}) for section in SECTIONS}
    LIST.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
