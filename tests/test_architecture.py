"""Imports point down, heavy packages load late, and nothing unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflows_for_tests import child_environment

PACKAGE = Path(__file__).resolve().parents[1] / "daskt2i"

FLOORS = {
    0: "errors",
    1: "types folder component machine rank noise options formats facts",
    2: "protocols settings plan flushing images places roster console diffusion model sheet vae_loss stream metrics"
    " muon webpage bench.meter bench.report turns"
    " checkpoint"
    " captions captions.activities captions.mentions captions.people captions.rules expression likeness instances",
    3: "estimate config survey latents receipts manifest lock gates layout executors.attempts supervise learner peers"
    " sources sources.coco sources.coco_index sources.drawing sources.fake sources.grammar sources.judge"
    " sources.scenes sources.zipped"
    " encoders encoders.export encoders.fake encoders.footprint encoders.precision encoders.text encoders.textconfig"
    " encoders.tokens encoders.vae encoders.weights bench bench.columns bench.page",
    4: "bench.rows forecast reading model_cache status selection hands pipeline pictures autoencoder shards optimise"
    " testing testing.encoder testing.executor testing.source testing.store",
    5: "bench.measured bench.stores progress report suggest worker prepare verify attempt painter dataset",
    6: "bench.child bench.peak bench.read bench.runs bench.sample bench.warm"
    " calibrate encode launch sample evaluate train train_vae insights_view page"
    " executors executors.dask executors.joblib executors.multiprocessing executors.serial",
    7: "bench.naive bench.plots bench.train cluster insights terminal training",
    8: "bench.scaling bench.simulation estimate_view session terminal_training",
    9: "bench.cell bench.encode bench.scheduler stages",
    10: "commands.bench commands.data",
    11: "commands commands.bench_training commands.estimate commands.model",
    12: "workflow",
}
"""Lower floor -> modules. A module imports strictly lower floors; a new module must be given a floor here.

DESIGN.md's order with one floor more at the bottom (`types` names the reasons of `errors`), and with what has been
split off since (`reading`, `model_cache`, `prepare`, …) beside its origin. The package itself (`daskt2i/__init__.py`)
imports nothing before somebody asks for `open_store`.
"""

FLOOR = {f"daskt2i.{name}": floor for floor, names in FLOORS.items() for name in names.split()}
FLOOR["daskt2i"] = 4  # a front door to the store, one floor above it

FAMILIES = ("daskt2i.captions.", "daskt2i.sources.", "daskt2i.encoders.")
"""Sub-packages on one floor whose modules may import each other, without a circle."""

HEAVY = {"torch", "diffusers", "transformers"}
MAY_USE_DISTRIBUTED = {f"daskt2i.{name}" for name in ("executors.dask", "cluster", "launch", "dashboard")}
"""The last one is still to come."""

FORBIDDEN_NAMES = {"utils", "core", "common", "base", "manager", "registry"}
UNSAFE = {"pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "dill.load"}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_name(path): path for path in PACKAGE.rglob("*.py")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


class _Imports(ast.NodeVisitor):
    """Every import of a module but those that only a type checker sees, with whether it is at the top."""

    def __init__(self, module: str) -> None:
        self.module, self.found, self._depth = module, set[tuple[str, bool]](), 0

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def _inside(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _inside

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {(alias.name, not self._depth) for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.module} has a relative import; write it out"
        assert node.module is not None
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.found.add((whole if whole in SOURCES else node.module, not self._depth))


def _imports(module: str) -> set[tuple[str, bool]]:
    visitor = _Imports(module)
    visitor.visit(TREES[module])
    return visitor.found


def _ours(module: str) -> Iterator[str]:
    return (name for name, _ in _imports(module) if name.partition(".")[0] == "daskt2i")


def test_every_module_has_a_floor() -> None:
    assert set(SOURCES) - set(FLOOR) == set(), "give the new module a floor in this test"
    assert set(FLOOR) - set(SOURCES) == set(), "the table names a module that is gone"


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_to_lower_floors(module: str) -> None:
    family = next((f for f in FAMILIES if module.startswith(f)), "no family")
    upward = [n for n in _ours(module) if FLOOR[n] >= FLOOR[module] and not n.startswith(family)]
    assert upward == []


def test_no_imports_run_in_a_circle() -> None:
    """Floors rule it out but for the families; a circle there would show as a module that reaches itself."""
    reach = {module: set(_ours(module)) for module in SOURCES}
    for _ in SOURCES:
        reach = {module: names.union(*(reach[n] for n in names)) for module, names in reach.items()}
    assert [module for module, names in reach.items() if module in names] == []


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_heavy_packages_are_imported_inside_functions_and_distributed_by_few(module: str) -> None:
    top = {name.partition(".")[0] for name, at_top in _imports(module) if at_top}
    assert top & HEAVY == set()
    if module not in MAY_USE_DISTRIBUTED:
        assert "distributed" not in {name.partition(".")[0] for name, _ in _imports(module)}


def test_modules_are_named_for_what_they_hold() -> None:
    assert [name for name in SOURCES if FORBIDDEN_NAMES & set(name.split("."))] == []


def test_no_module_passes_400_lines() -> None:
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def _calls(module: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call))


def test_only_the_command_line_prints() -> None:
    ways = {"print", "sys.stdout.write", "sys.stderr.write"}
    talkers = {name for name in SOURCES for call in _calls(name) if ast.unparse(call.func) in ways}
    assert talkers <= {"daskt2i.console"}


def _unpickles(call: ast.Call) -> bool:
    """Whether it runs what a file says. A suite that pickles something and takes it back reads no file."""
    of_its_own = call.args and ast.unparse(call.args[0]).startswith("pickle.dumps(")
    return ast.unparse(call.func) in UNSAFE and not of_its_own


def test_nothing_unpickles_what_it_reads() -> None:
    assert [(name, ast.unparse(call)) for name in SOURCES for call in _calls(name) if _unpickles(call)] == []
    # A name imported from one of these modules would hide the call above.
    hidden = [
        (name, ast.unparse(node))
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "cloudpickle", "yaml")
    ]
    assert hidden == []
    # The switches of other packages: numpy's must be off; transformers' and diffusers' on.
    switches = [
        (name, ast.unparse(node))
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only", "use_safetensors")
        if ast.unparse(node.value) != str(node.arg != "allow_pickle")
    ]
    assert switches == []


LIGHT = """
import sys, runpy
sys.argv = ["workflow", *{arguments!r}]
try:
    runpy.run_module("daskt2i.workflow", run_name="__main__")
except SystemExit as end:
    assert end.code in (0, None), end.code
heavy = sorted({heavy!r} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["encode", "--dry-run"], ["run", "--dry-run"], ["train", "--dry-run"], ["status"], None],
    ids=["help", "encode dry-run", "run dry-run", "train dry-run", "status", "import"],
)
def test_what_answers_at_once_imports_no_torch(arguments: list[str] | None, fake_run: Path) -> None:
    """The words of `--help`, a plan, the state of a run, and the first cell of a notebook."""
    if arguments is None:
        code = f"import sys, daskt2i; assert not {HEAVY!r} & set(sys.modules)"
    else:
        if arguments != ["--help"]:
            arguments = [*arguments, "--workflow", str(fake_run / "fake.yaml"), "--out", str(fake_run / "out")]
        code = LIGHT.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr


def test_importtime_of_help_shows_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "daskt2i.workflow", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & (HEAVY | {"distributed", "zarr", "pyarrow"}) == set()


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of fake encoders, for `status` to look at."""
    from workflows_for_tests import fake_settings, finish, write_workflow

    folder = tmp_path_factory.mktemp("architecture")
    write_workflow(folder / "fake.yaml")
    finish(fake_settings(), folder / "out")
    return folder
