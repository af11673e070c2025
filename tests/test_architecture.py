"""Rooms in the order in which data flows: who may import whom, what loads late, and that nothing unpickles.

A room is a package of `daskt2i/`, or one of the modules beside them. docs/why/architecture.md draws the rooms.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from builders.workflows import child_environment

import daskt2i
from daskt2i.config.component import MOVED

PACKAGE = Path(__file__).resolve().parents[1] / "daskt2i"

MAY_IMPORT = {
    "redact": "",
    "notebooks": "redact",
    "documents": "",
    "errors": "redact notebooks",
    "os_errors": "",
    "credentials": "redact errors",
    "portable_errors": "redact errors",
    "addresses": "redact errors",
    "types": "redact errors",
    "protocols": "types",
    "view": "notebooks",
    "events": "redact types protocols view",
    "formatting": "",
    "plan": "errors types",
    "retries": "",
    "probes": "",
    "faults": "redact errors types protocols formatting retries",
    "config": "redact documents errors addresses view",
    "images": "errors types",
    "sources": "redact documents errors credentials addresses types protocols events formatting",
    "machine": "errors types probes",
    "inference": "",
    "encoders": "documents errors addresses types probes inference",
    "testing": "errors types protocols",
    "deploy": "notebooks documents errors formatting config machine",
    "store": "redact errors os_errors credentials addresses types view formatting plan config",
    "facts": "documents errors addresses types protocols faults config images store",
    "estimate": "documents errors types view formatting plan config store",
    "loader": "documents errors os_errors types protocols formatting plan faults images machine encoders store facts",
    "model": "errors types protocols config machine encoders store",
    "launch": "errors portable_errors events retries machine deploy",
    "hosts": "errors types protocols events formatting faults config encoders store",
    "encode": "redact documents errors addresses types protocols view events formatting plan retries faults"
    " config images sources machine store facts estimate hosts",
    "insights": "notebooks errors types protocols view events formatting plan faults config images store facts hosts",
    "executors": "errors portable_errors protocols events retries deploy encode",
    "sample": "documents errors addresses types protocols view events formatting config machine"
    " inference encoders store model hosts encode",
    "evaluation": "errors addresses types protocols view events formatting config images sources machine encoders"
    " store facts loader model hosts encode sample",
    "train": "redact errors os_errors types protocols view events formatting plan config images machine encoders"
    " store facts loader model launch hosts encode sample",
    "display": "notebooks errors types view events formatting config estimate insights evaluation train",
    "dashboard": "redact errors os_errors addresses types view events formatting store estimate train display",
    "session": "redact notebooks errors addresses protocols view events formatting plan retries config images sources"
    " machine deploy store estimate model launch encode insights executors sample evaluation train dashboard",
    "export": "redact errors os_errors view events formatting faults encoders store facts loader session",
    "doctor": "redact errors types protocols view formatting plan faults config machine encoders deploy store"
    " facts hosts encode executors session",
    "bench": "documents errors portable_errors types protocols events formatting plan faults config images"
    " sources machine encoders deploy store loader model launch encode sample train session",
    "run": "errors view events config deploy estimate encode insights export train display session doctor",
    "studio": "errors run",
    "cli": "redact documents errors os_errors addresses view events plan faults config sources machine deploy"
    " store launch sample display session bench run studio",
    "workflow": "cli",
}
"""Room -> rooms that it may import: always some that stand above it here.

A new room gets a line. A new import of a room that is not in the line of its importer is a decision: say why in
docs/decisions/, or find the place where the code belongs.
"""

BY_NAME = {
    ("config", "facts"): "class paths of before the rooms lead to where the class is now",
    ("config", "model"): "the same",
    ("config", "bench"): "the same",
    ("config", "encoders"): "classes that the settings in a run folder may name",
    ("encode", "encoders"): "the other half of a column is an encoder that makes nothing",
    ("config", "sources"): "a workflow that draws scenes, and --images, name our own sources as a user's file would",
}
"""Rooms that a room names in a string: dotted class paths of components, which are imported like a user's own."""

MAY_USE_DISTRIBUTED = {"deploy", "launch", "executors", "session", "run", "dashboard"}

HEAVY = {"torch", "diffusers", "transformers"}
FORBIDDEN_NAMES = {"utils", "core", "common", "base", "manager", "registry"}
MOST_FILES, MOST_LINES = 12, 400
UNSAFE = {
    "pickle.load",
    "pickle.loads",
    "torch.load",
    "yaml.load",
    "yaml.safe_load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "dill.load",
}
SETTINGS = {"daskt2i.run", "daskt2i.launch", "daskt2i.tls"}
"""Keys of `dask.config` that look like names of modules."""


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_name(path): path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
PACKAGES = {name for name, path in SOURCES.items() if path.name == "__init__.py"}


def _room(module: str) -> str:
    return module.removeprefix("daskt2i.").partition(".")[0]


ROOMS = sorted({_room(module) for module in SOURCES})


def _imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import, inside functions and for type checkers too: the statement, and the module that it names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it out"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node, whole if whole in SOURCES else str(node.module)


def _ours(name: str) -> bool:
    return name.startswith("daskt2i.")


def _named(tree: ast.AST) -> Iterator[str]:
    """Modules that strings name, docstrings aside."""
    words = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in words:
            text = node.value.rstrip(".")
            if re.fullmatch(r"daskt2i(\.\w+)+", text) and text not in SETTINGS and text != "daskt2i.json":
                yield text


def _module_of(dotted: str) -> str | None:
    """The module in which a dotted name lies, or None."""
    parts = dotted.split(".")
    found = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((name for name in found if name in SOURCES), None)


def _room_imports(room: str) -> dict[str, set[str]]:
    """Room -> modules of this one that import it."""
    found: dict[str, set[str]] = {}
    for module in SOURCES:
        if _room(module) == room:
            for _, name in _imports(TREES[module]):
                if _ours(name) and _room(name) != room:
                    found.setdefault(_room(name), set()).add(module)
    return found


def test_every_room_stands_in_the_table() -> None:
    assert set(ROOMS) - set(MAY_IMPORT) == set(), "give the new room a line in MAY_IMPORT"
    assert set(MAY_IMPORT) - set(ROOMS) == set(), "the table names a room that is gone"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_may_import_rooms_above_it_alone(room: str) -> None:
    order = list(MAY_IMPORT)
    below = [name for name in MAY_IMPORT[room].split() if order.index(name) >= order.index(room)]
    assert below == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says(room: str) -> None:
    found = _room_imports(room)
    allowed = set(MAY_IMPORT[room].split())
    assert {name: sorted(modules) for name, modules in found.items() if name not in allowed} == {}
    assert allowed - set(found) == set(), "the table allows an import that nobody makes"


def test_a_string_names_a_module_where_the_table_says_so() -> None:
    pairs = {}
    for module, tree in TREES.items():
        for text in _named(tree):
            if module == "daskt2i.config.component" and text in MOVED:
                continue  # an old path
            if text.split(".")[1] in daskt2i.__all__:
                continue  # a public name, in what a user reads
            target = _module_of(text)
            assert target is not None, f"{module} names {text}, which is not there"
            if _room(target) != _room(module) and _room(target) not in MAY_IMPORT[_room(module)].split():
                pairs[_room(module), _room(target)] = f"{module} names {text}"
    assert {pair: text for pair, text in pairs.items() if pair not in BY_NAME} == {}
    assert set(BY_NAME) - set(pairs) == set(), "the table allows a name that nobody uses"


def test_no_modules_import_each_other() -> None:
    """Between rooms the table rules it out; this test looks inside rooms too."""
    graph = {module: {name for _, name in _imports(TREES[module]) if name in SOURCES} for module in SOURCES}
    TopologicalSorter(graph).prepare()  # it raises CycleError, which names the modules of a circle


def _at_top(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: also inside `with`, `try`, `if` and classes, not for type checkers."""
    still = list[ast.AST](tree.body)
    while still:
        node = still.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for _, name in _imports(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            still.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            still.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("room", ROOMS)
def test_heavy_packages_are_imported_inside_functions_and_distributed_by_few(room: str) -> None:
    modules = [module for module in SOURCES if _room(module) == room]
    top = {name.partition(".")[0]: module for module in modules for name in _at_top(TREES[module])}
    assert {name: top[name] for name in HEAVY & set(top)} == {}
    if room not in MAY_USE_DISTRIBUTED:
        every = {name: module for module in modules for _, name in _imports(TREES[module])}
        used = {name: every[name] for name in every if f"{name}.".startswith(("distributed.", "dask.distributed."))}
        assert used == {}


def test_modules_are_named_for_what_they_hold() -> None:
    assert [name for name in SOURCES if FORBIDDEN_NAMES & set(name.split("."))] == []


def test_a_room_has_a_dozen_files_at_the_most() -> None:
    rooms = [name.rpartition(".")[0] for name in set(SOURCES) - PACKAGES]
    assert {room: rooms.count(room) for room in rooms if "." in room and rooms.count(room) > MOST_FILES} == {}


def test_no_module_passes_400_lines() -> None:
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_the_init_of_a_package_is_its_sign(package: str) -> None:
    """A docstring of five to fifteen lines that says what is in here and what is not; and no code."""
    tree = TREES[package]
    lines = (ast.get_docstring(tree) or "").splitlines()
    assert len(tree.body) == 1, "no code in __init__.py: import from the module"
    assert 5 <= len(lines) <= 15
    assert any(line.startswith("Not in here:") for line in lines)


@functools.cache
def _calls() -> list[tuple[str, str, ast.Call]]:
    """Module, the name that it calls, and the call."""
    return [
        (module, ast.unparse(node.func), node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_only_the_command_line_prints_and_the_front_object_has_a_console() -> None:
    ways = {"print", "Console", "rich.print", "rich.console.Console", "typer.echo"}
    ways |= {f"sys.{stream}.{how}" for stream in ("stdout", "stderr") for how in ("write", "writelines")}
    talkers = {module for module, called, _ in _calls() if called in ways}
    assert {_room(name) for name in talkers} <= {"cli", "run"}


def _unpickles(called: str, call: ast.Call) -> bool:
    """Whether it runs what a file says. A suite that pickles something and takes it back reads no file."""
    return called in UNSAFE and not (call.args and ast.unparse(call.args[0]).startswith("pickle.dumps("))


def test_nothing_unpickles_what_it_reads() -> None:
    assert [(module, ast.unparse(call)) for module, called, call in _calls() if _unpickles(called, call)] == []
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


def _text_files() -> list[Path]:
    top = PACKAGE.parent
    folders = [PACKAGE, top / "tests", top / "workflows", top / "docs"]
    found = [path for folder in folders for suffix in ("py", "md", "yaml") for path in folder.rglob(f"*.{suffix}")]
    return [top / "README.md", *(path for path in found if path.name != Path(__file__).name)]


def test_every_module_that_a_text_names_is_there() -> None:
    """In docs, docstrings and strings of tests: a name that moved would send a reader to nothing."""
    wrong = []
    for path in _text_files():
        for match in re.finditer(r"\bdaskt2i(?:\.[a-z]\w*)+(?:\.\w+)*", path.read_text(encoding="utf-8")):
            dotted = match.group(0)
            if not _is_there(dotted) and not _looks_like_a_module(dotted) and dotted not in MOVED:
                wrong.append(f"{path.relative_to(PACKAGE.parent)}: {dotted}")
    assert wrong == []


def _is_there(dotted: str) -> bool:
    """Whether it is a module, or a name in one."""
    module = _module_of(dotted)
    if module is None:
        return dotted.split(".")[1] in daskt2i.__all__
    name = dotted.removeprefix(module).strip(".").partition(".")[0]
    return not name or (module not in PACKAGES and bool(re.search(rf"\b{name}", SOURCES[module].read_text("utf-8"))))


def _looks_like_a_module(dotted: str) -> bool:
    """A file, a key inside a file, sections of `dask.config`."""
    return dotted.partition(".")[2] in ("json", "facts") or dotted.startswith(tuple(SETTINGS))


LIGHT = """
import sys, runpy, daskt2i
assert not {quick!r} & set(sys.modules), "import daskt2i"
for arguments in {commands!r}:
    sys.argv = ["workflow", *arguments]
    try:
        runpy.run_module("daskt2i.workflow", run_name="__main__")
    except SystemExit as end:
        assert end.code in (0, None), (arguments, end.code)
    heavy = sorted({heavy!r} & set(sys.modules))
    assert not heavy, (arguments, heavy)
"""


def test_what_answers_at_once_imports_no_torch(fake_run: Path) -> None:
    """The first cell of a notebook, the words of `--help`, plans, the state of a run, one after the other."""
    of_run = ["--workflow", str(fake_run / "fake.yaml"), "--out", str(fake_run / "out")]
    commands = [
        ["--help"],
        ["encode", "--dry-run", *of_run],
        ["run", "--dry-run", "--workflow", "demo", "--out", str(fake_run / "drawn")],  # fakes cannot draw
        ["train", "--dry-run", "--set", "train.validation=4", *of_run],
        ["status", *of_run],
    ]
    code = LIGHT.format(commands=commands, heavy=HEAVY, quick=HEAVY | {"distributed"})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Plan of") == 3, "the plans were shown"


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
    from builders.workflows import fake_settings, finish, write_workflow

    folder = tmp_path_factory.mktemp("architecture")
    write_workflow(folder / "fake.yaml")
    finish(fake_settings(), folder / "out")
    return folder
