"""Every block of code in README.md and docs/ does what it says, or says why it cannot run here.

The blocks of a page run in one folder, in their order, as a reader would type them. What a machine may not have, or
what would take hours, has a stand-in or a reason in the tables below. Any other block runs, or fails. No block needs a
network.

Covers: shell, Python, YAML and JSON blocks. All blocks are checked. Those of `QUICK` pages run, but for commands that
train or measure. With `--slow` the other pages run too, and what trains or measures, on few rows and few steps.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from builders.coco import PEOPLE
from builders.code_blocks import (
    OTHERS,
    PYTHON,
    SHELL,
    TOP,
    Block,
    blocks,
    commands,
    keys_of,
    options,
    ours,
    sets_of,
    unknown_settings,
)
from builders.command_line import run
from builders.runs import TINY
from builders.tables import picture, write_parquet
from builders.tars import sample, write_tar
from builders.workflows import child_environment
from PIL import Image

from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import find_file, load_workflow
from daskt2i.deploy.cluster_file import ClusterFile
from daskt2i.sources.scenes import write_scenes

# What other people's libraries warn of in a user's program is not this test's matter.
pytestmark = pytest.mark.filterwarnings("ignore")

BUILT = TOP / "docs" / "_build"
PAGES = [TOP / "README.md", *sorted(page for page in (TOP / "docs").rglob("*.md") if BUILT not in page.parents)]
BLOCKS = [block for page in PAGES for block in blocks(page)]
PACKAGE = TOP / "daskt2i"

NOT_RUN = {
    ("pip", "install"): "installs from an index, which needs a network",
    ("python3", "-m", "venv"): "the environment of the tests is there already",
    (".", ".venv/bin/activate"): "the same",
    ("cp",): "tests/session/test_rows.py undoes a change so",
    ("dask", "scheduler"): "a scheduler that never ends, on a network interface of a cluster",
    ("srun",): "SLURM",
    ("sbatch",): "SLURM",
    ("squeue",): "SLURM",
    ("ssh",): "a tunnel to a node of a cluster",
    ("pip", "wheel"): "tests/test_packaging.py builds it",
    ("hf",): "the Hugging Face hub, which needs a network and a login",
    ("docker",): "no Docker here; tests/deploy/test_kinds.py reads the Dockerfiles",
    ("kubectl",): "Kubernetes",
    ("python", "-m", "pytest"): "these tests run in it; a test file that a page makes does run",
    ("python", "workflows/train_demo_encoders.py"): "trains for an hour; tests/encoders tests what it made",
    ("benchmarks/gpu.sh",): "tests/bench runs it",
    ("WHEELS=wheels", "benchmarks/gpu.sh"): "installs wheels on a machine with a GPU",
    ("python", "benchmarks/store_size.py"): "measures photographs and a tokenizer that are not here, for minutes",
    ("python", "docs/benchmarks/insights.py"): "measures with 82,783 images",
    ("python", "docs/benchmarks/suggest.py"): "measures with the captions of the line above it",
}
"""Commands, by their first words, that are read and not run, and why. Files that they name must be there."""

BENCH = ("encode", "peers", "scheduler", "read", "train", "sample", "device")
SLOW = {"train", "train-vae", "estimate", *(f"bench {name}" for name in BENCH)}
"""Our commands that train or measure: run with --slow, and checked always."""

RECORDS = "docs/benchmarks/"
"""Pages that record what was measured by which command. The commands are checked. tests/bench runs such ones."""

PYTHON_NOT_RUN = {
    'Client("tcp://10.0.0.5:8786")': "attaches to a cluster at an address of its own",
    "store.latent_mean_512x448": "reads a store of buckets; tests/encode/test_shapes.py reads one",
    "unload_encoders(client)": "goes on with the client of the block above it",
}
"""Python blocks, by a text in them, of which only the imports run, and why."""


@dataclass(frozen=True)
class StandIn:
    """What is written in place of what a page says.

    Attributes:
        page: from the top of the repository; "" for any.
        old, new: texts of one block.
        why: what the machine does not have, or what would take too long.
    """

    page: str
    old: str
    new: str
    why: str


SETTINGS = repr({text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in TINY})
SMALL_RUN = f'scheduler="serial", settings={SETTINGS}'
"""Arguments of `Run` for a tiny demo, as Python."""

LONG_RUN = "training takes minutes, and one process starts sooner"
STAND_INS = [
    StandIn("README.md", 'Run("demo")', f'Run("demo", {SMALL_RUN})', LONG_RUN),
    StandIn("docs/how-to/several-machines.md", "/shared/runs/", "runs/", "a disk that several machines share"),
    StandIn("docs/how-to/several-machines.md", "--scheduler my-slurm.yaml", "--scheduler serial", "SLURM"),
    StandIn("docs/how-to/rows.md", 'open_run("runs/demo"', 'open_run("runs/demo", scheduler="serial"', LONG_RUN),
    StandIn("docs/how-to/columns.md", "runs/coco", "runs/demo", "a small store"),
    StandIn("docs/how-to/columns.md", "google/t5-v1_1-base", "daskt2i:demo/text", "the hub"),
    StandIn(
        "docs/how-to/select-rows.md",
        "train --out runs/coco --where 'people and aesthetic > 5'",
        "export --out runs/demo --to npy made --where 'words > 2'",
        "no training on other rows may begin in a folder that has one; `export` chooses rows in the same way",
    ),
    StandIn("docs/how-to/push.md", "--out runs/demo --to", "--dry-run --out runs/demo --to", "the hub"),
    StandIn("docs/how-to/push.md", "hf://datasets/me/demo-latents", "runs/demo", "the hub"),
    StandIn("docs/how-to/push.md", "--out runs/copied", "--out runs/demo", "what comes from the hub"),
    StandIn("", 'Run("demo", settings={"train.steps": 1000}', f'Run("demo", {SMALL_RUN}', LONG_RUN),
    StandIn("", 'Run("demo", progress', f'Run("demo", {SMALL_RUN}, progress', LONG_RUN),
    StandIn("", 'Run("demo", client', f'Run("demo", settings={SETTINGS}, client', "training takes minutes"),
    StandIn("docs/first-steps/demo.md", 'open_run("runs/demo"', 'open_run("runs/demo", scheduler="serial"', LONG_RUN),
]
"""Texts that are exchanged before a block is checked and run."""


# ---- files that a page takes for granted ----


def _photos(folder: Path) -> None:
    """Ten JPEG files of 320 x 300 pixels with captions of people and other things, as COCO and as text files."""
    drawn = write_scenes(folder / "scenes-of-photos", len(PEOPLE), seed=7).parent / "images"
    (folder / "photos").mkdir()
    images, annotations = [], []
    for row, (path, texts) in enumerate(zip(sorted(drawn.iterdir()), PEOPLE, strict=True)):
        texts = texts or ["a plate on a table"]
        name = f"{row:03d}.jpg"
        Image.open(path).resize((320, 300)).save(folder / "photos" / name, quality=95)
        (folder / "photos" / name).with_suffix(".txt").write_text(texts[0], encoding="utf-8")
        images.append({"id": row, "file_name": name})
        annotations += [{"image_id": row, "id": 10 * row + n, "caption": text} for n, text in enumerate(texts)]
    document = json.dumps({"images": images, "annotations": annotations})
    (folder / "photos.json").write_text(document, encoding="utf-8")


def _train2014(folder: Path) -> None:
    if not (folder / "photos").exists():
        _photos(folder)
    shutil.make_archive(str(folder / "train2014"), "zip", folder / "photos")
    shutil.copy(folder / "photos.json", folder / "captions_train2014.json")


def _demo_model(name: str, part: str) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        shutil.copytree(PACKAGE / "demo" / part, folder / name)

    return copy


def _rules(folder: Path) -> None:
    shutil.copy(PACKAGE / "facts" / "captions" / "rules.yaml", folder / "my-rules.yaml")


def _tars(folder: Path) -> None:
    for number in range(100):
        write_tar(folder / "tars" / f"{number:05d}.tar", sample("000000", number, f"picture {number}"))


def _parquet_files(folder: Path) -> None:
    columns = {"pixels": [picture(1), picture(2)], "caption_en": ["a dog", "a cat"], "caption_de": ["ein Hund", ""]}
    write_parquet(folder / "parquet-files" / "0.parquet", pa.table(columns))


def _flickr(folder: Path) -> None:
    """The table of Flickr30k: bars and spaces between the columns."""
    if not (folder / "photos").exists():
        _photos(folder)
    shutil.copytree(folder / "photos", folder / "flickr30k_images", ignore=shutil.ignore_patterns("*.txt"))
    names = sorted(path.name for path in (folder / "flickr30k_images").iterdir())
    lines = [f"{name}| {number}| A picture of something ." for name in names for number in range(5)]
    _write(folder / "results.csv", "\n".join(["image_name| comment_number| comment", *lines]))


def _karpathy(folder: Path) -> None:
    if not (folder / "photos").exists():
        _photos(folder)
    names = sorted(path.name for path in (folder / "photos").glob("*.jpg"))
    images = [
        {
            "filepath": "photos",
            "filename": name,
            "split": "train",
            "cocoid": number,
            "sentences": [{"raw": "a picture"}],
        }
        for number, name in enumerate(names)
    ]
    _write(folder / "dataset_coco.json", json.dumps({"images": images}))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


FILES: dict[str, Callable[[Path], None]] = {
    "train2014.zip": _train2014,
    "photos": _photos,
    "tars/{00000..00099}.tar": _tars,
    "parquet-files": _parquet_files,
    "results.csv": _flickr,
    "dataset_coco.json": _karpathy,
    "my-rules.yaml": _rules,
    "bad.txt": lambda folder: _write(folder / "bad.txt", "000.jpg"),
    "repaired.txt": lambda folder: _write(folder / "repaired.txt", "001.jpg"),
    "models/sd-vae-ft-mse": _demo_model("models/sd-vae-ft-mse", "vae"),
    "models/clip-vit-large-patch14": _demo_model("models/clip-vit-large-patch14", "text"),
    "runs/vae/vae": _demo_model("runs/vae/vae", "vae"),
}
"""Names that a block mentions -> what makes them, where no block before it has: small data, and the demo's encoders."""

RUN_FOLDERS = ("runs/demo", "runs/coco-sd15")
NEEDS_A_STORE = {"run", "train", "sample", "evaluate", "status", "verify", "export", "push", "suggest", "bench sample"}
NEEDS_A_STORE |= {"add", "append", "remove", "replace"}
"""A command of these finds the run folder of a tiny demo, encoded and trained, where no block before it made one. So
`run` finds its encoding and its training done."""

SMALL = [
    *(text for text in TINY if not text.startswith("scenes.")),
    *("evaluate.prompts=2", "evaluate.seeds=1", "vae.steps=2", "vae.batch=4", "vae.validation=2", "vae.warmup=0"),
    "vae.config={block_out_channels: [8, 8, 8], norm_num_groups: 4}",
]
TEXT = "dataset.encoders.text"
HUB = [
    "dataset.image.resolution=64",
    f"{TEXT}.max_tokens=26",
    f"{TEXT}.pad=full",
    "train.model.preset=demo",
    "vae.crop=32",
]
"""Settings that stand in for what is large, or on the hub: those of the demo."""

FEW = {
    "estimate": ["--rows", "8", "--workers", "1", "--devices", "cpu"],
    "bench encode": ["--rows", "8", "--workers", "1", "--schedulers", "serial", "--repeats", "1"],
    "bench peers": ["--workflow", "demo", "--peers", "naive", "--rows", "2", "--workers", "1", "--repeats", "1"],
    "bench scheduler": ["--rows", "20", "--chunks", "20", "--workers", "2", "--chunk-seconds", "0"],
    "bench read": ["--shapes", "demo", "--readers", "1", "--repeats", "1", "--from", "memory"],
    "bench train": ["--ranks", "1", "--steps", "2", "--repeats", "1"],
    "bench sample": ["--steps", "1", "--batches", "1", "--repeats", "1"],
    "bench device": ["--device", "cpu", "--tiny", "--parts", "device"],
}
"""More options of the commands that measure, so that they measure little. The last of two same options holds."""


# ---- what is always checked ----


def _replaced(block: Block) -> str:
    text = block.text
    for one in STAND_INS:
        if one.page in ("", block.page):
            text = text.replace(one.old, one.new)
    return text


def _of(*languages: str) -> Any:
    return pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in languages], ids=str)


def _not_run(words: list[str]) -> tuple[str, ...] | None:
    return next((start for start in NOT_RUN if tuple(words[: len(start)]) == start), None)


def test_a_block_names_a_language_that_is_tested_here() -> None:
    assert [str(block) for block in BLOCKS if block.language not in (SHELL, PYTHON, *OTHERS)] == []
    unnamed = [block for block in BLOCKS if block.language == "text" and re.search(r"^(python|pip) ", block.text, re.M)]
    assert [str(block) for block in unnamed] == [], "a command; name it sh"


@_of(SHELL)
def test_a_shell_block_is_right_to_the_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=_replaced(block), capture_output=True, text=True)
    assert done.stderr == ""


@_of(SHELL)
def test_a_command_and_its_options_are_there(block: Block) -> None:
    for words in commands(_replaced(block)):
        mine = ours(words)
        if mine is not None:
            _, values = options(mine)
            name = str(values.get("workflow") or "demo")
            keys = [text.partition("=")[0] for text in sets_of(values)]
            if not name.endswith(".yaml"):
                find_file(name, "workflows")
            else:
                name = "demo"
            assert unknown_settings(keys, name) == []
        else:
            assert _not_run(words) is not None, f"{' '.join(words)}: run it here, or say in NOT_RUN why not"
            for word in words:
                if re.fullmatch(r"(docs|tests|workflows)/[\w/.-]+\.py", word):
                    assert (TOP / word).is_file()
                for extra in re.findall(r"^\.\[([\w,]+)\]$", word):
                    about = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
                    assert set(extra.split(",")) <= about["project"]["optional-dependencies"].keys()


@_of(PYTHON)
def test_a_python_block_is_python_and_imports_what_is_there(block: Block, tmp_path: Path) -> None:
    tree = ast.parse(_replaced(block))
    mylab = {one.file for one in BLOCKS if one.file}
    imports = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not any(str(name).split("/")[0].removesuffix(".py") in ast.unparse(node) for name in mylab)
    ]
    exec("\n".join(ast.unparse(node) for node in imports), {})


@_of("yaml")
def test_a_yaml_block_holds_settings(block: Block, tmp_path: Path) -> None:
    data = yaml.safe_load(block.text)
    if "cluster" in data:
        (tmp_path / "cluster.yaml").write_text(block.text, encoding="utf-8")
        assert ClusterFile.read(str(tmp_path / "cluster.yaml")).factory
        return
    components = ("dataset.source.", "dataset.encoders.")
    keys = [key for key in keys_of(data) if not key.startswith(components)]
    assert unknown_settings(keys) == []
    if "prices" in data:
        whole = {**load_workflow("demo").model_dump(mode="json", by_alias=True), **data}
        assert Workflow.model_validate(whole).prices is not None


@_of("json")
def test_a_json_block_is_json(block: Block) -> None:
    assert json.loads(block.text)


def test_no_entry_of_a_table_is_left_over() -> None:
    """A block that changed or went away takes its stand-in with it."""
    texts = [(block.page, block.text) for block in BLOCKS]
    assert [
        one for one in STAND_INS if not any(one.page in ("", page) and one.old in text for page, text in texts)
    ] == []
    typed = [words for block in BLOCKS if block.language == SHELL for words in commands(_replaced(block))]
    assert [start for start in NOT_RUN if not any(_not_run(words) == start for words in typed)] == []
    assert [text for text in PYTHON_NOT_RUN if not any(text in other for _, other in texts)] == []
    assert [name for name in FILES if not any(name in text for _, text in texts)] == []


# ---- running a page ----


class Reader:
    """Somebody who types the blocks of a page in a folder of their own."""

    def __init__(self, folder: Path, demo_run: Path, slow: bool) -> None:
        self.folder = folder
        self.demo_run = demo_run
        self.slow = slow
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.lent: set[str] = set()

    def type(self, block: Block) -> None:
        """Run one block.

        Raises:
            AssertionError: it does not do what it says; the message has the place.
        """
        text = _replaced(block)
        self._provide(text)
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == SHELL:
            for words in commands(text):
                self._command(block, words)
        elif block.language == PYTHON and not any(part in block.text for part in PYTHON_NOT_RUN):
            for name in RUN_FOLDERS:
                if name in text or f'Run("{name.removeprefix("runs/")}"' in text:
                    self._run_folder(name)
            with warnings.catch_warnings(), _inside(self.folder):
                warnings.simplefilter("ignore")
                exec(compile(text, str(block), "exec"), self.names)

    def _provide(self, text: str) -> None:
        for name, make in FILES.items():
            if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w/])", text) and not (self.folder / name).exists():
                make(self.folder)

    def _run_folder(self, name: str) -> None:
        if not (self.folder / name / "latents.zarr").exists():
            shutil.copytree(self.demo_run, self.folder / name, dirs_exist_ok=True)
            self.lent.add(name)

    def _command(self, block: Block, words: list[str]) -> None:
        mine = ours(words)
        if mine is None:
            if words[:3] == ["python", "-m", "pytest"] and (self.folder / " ".join(words[3:])).is_file():
                self._pytest(words[3:])
            return
        outside = [word for word in mine if Path(word).is_absolute()]
        assert outside == [], f"{block}: writes outside the folder of the page; give it a stand-in"
        name, values = options(mine)
        if name in SLOW and not self.slow:
            return
        workflow = str(values.get("workflow") or "demo")
        out = str(values.get("out_folder") or f"runs/{workflow}")
        out = "runs/demo" if name == "bench sample" else out  # the pipeline that it draws with
        if name in NEEDS_A_STORE and out in RUN_FOLDERS:
            self._run_folder(out)
            if name == "train" and workflow != "demo":  # lent was a training of another workflow
                shutil.rmtree(self.folder / out / "train", ignore_errors=True)
        elif out in self.lent:  # this command makes its own
            shutil.rmtree(self.folder / out)
            self.lent.remove(out)
        more = self._stand_ins(name, values)
        with _inside(self.folder):
            done = run(*mine, *more, cwd=self.folder)
        shown = " ".join([*mine, *more])
        assert done.returncode == 0, f"{block}: {shown}\n{done.stdout}\n{done.stderr}"

    def _stand_ins(self, name: str, values: dict[str, Any]) -> list[str]:
        """More words of a command."""
        workflow = str(values.get("workflow") or "demo")
        more = list(FEW.get(name, []))
        sets: list[str] = []
        if "set_" in values and not name.startswith("bench "):
            sets += SMALL
            if workflow == "demo" and not values.get("images"):
                sets += [text for text in TINY if text.startswith("scenes.")]
            if workflow.startswith("coco-"):
                sets += HUB
                given = {text.partition("=")[0] for text in sets_of(values)}
                for part, model in (("image", "vae"), ("text", "text")):
                    setting = f"dataset.encoders.{part}.model"
                    sets += [f"{setting}=daskt2i:demo/{model}"] if setting not in given else []
        if "scheduler" in values and not name.startswith("bench "):
            more += ["--scheduler", "serial"]
        return [*more, *(word for text in sets for word in ("--set", text))]

    def _pytest(self, words: list[str]) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        environment = {**child_environment(), "PYTHONPATH": os.pathsep.join([str(self.folder), str(TOP)])}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


class _inside:
    """In a folder, which is also where imports look, as in a fresh Python there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.before, self.modules = Path.cwd(), set(sys.modules)
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))

    def __exit__(self, *_: object) -> None:
        sys.path.remove(str(self.folder))
        os.chdir(self.before)
        for name in set(sys.modules) - self.modules:
            if name.partition(".")[0] in ("mylab", "scores"):
                del sys.modules[name]


RUNNING = [
    page
    for page in dict.fromkeys(block.page for block in BLOCKS if block.language in (SHELL, PYTHON))
    if not page.startswith(RECORDS)
]
LONG = [
    page
    for page in RUNNING
    if any(re.search(rf"workflow ({'|'.join(SLOW)}) ", block.text) for block in BLOCKS if block.page == page)
]


QUICK = ("README.md", "docs/how-to/notebook.md")
"""Pages whose blocks run by default; those of the others run with --slow."""


@pytest.mark.parametrize(
    "page", [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in RUNNING]
)
def test_the_blocks_of_a_page_run_in_their_order(page: str, tmp_path: Path, demo_run: Path) -> None:
    reader = Reader(tmp_path, demo_run, slow=False)
    for block in BLOCKS:
        if block.page == page:
            reader.type(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG)
def test_the_whole_page_runs_with_blocks_that_train_and_measure(page: str, tmp_path: Path, demo_run: Path) -> None:
    reader = Reader(tmp_path, demo_run, slow=True)
    for block in BLOCKS:
        if block.page == page:
            reader.type(block)
