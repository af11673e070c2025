"""The classes that a pipeline folder may name. diffusers would also import other packages, and files of the folder.

Covers: refusing a pipeline folder with other classes, with Python files, with pickled weights or with remote code.
Does not cover: loading it (`pipeline`, `sample.painter`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from daskt2i.errors import ModelError
from daskt2i.model.denoisers.kinds import KINDS
from daskt2i.model.pipeline_forms import FORMS

_CLASSES = frozenset(
    {
        ("diffusers", "AutoencoderKL"),
        ("diffusers", "AutoencoderTiny"),
        ("transformers", "CLIPTextModel"),
        ("transformers", "CLIPTextModelWithProjection"),
        ("transformers", "CLIPTokenizer"),
        ("transformers", "CLIPTokenizerFast"),
        ("transformers", "T5EncoderModel"),
        ("transformers", "T5Tokenizer"),
        ("transformers", "T5TokenizerFast"),
        ("transformers", "CLIPImageProcessor"),
        ("transformers", "CLIPFeatureExtractor"),  # its name in older folders
        ("stable_diffusion", "StableDiffusionSafetyChecker"),  # of diffusers; it is never loaded
        *((path.rpartition(".")[0], path.rpartition(".")[2]) for path in KINDS),
    }
)
_CODE = frozenset({".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Endings of files that hold code, or pickles, which can run code."""


def refuse_foreign_parts(folder: Path) -> None:
    """Refuse a pipeline folder that could run code when it is loaded.

    Args:
        folder: the folder of `model_index.json`.

    Raises:
        ModelError: it names other classes than those that training writes, or it holds code or pickles.
    """
    index = _object(folder / "model_index.json")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in _CODE)
    found += [f"{name}: {value}" for name, value in index.items() if _is_foreign(name, value)]
    for path in sorted(folder.glob("*/*.json")):
        inside = [key for key in ("auto_map", "custom_pipelines") if key in _object(path)]
        found += [f"{key} in {path.relative_to(folder).as_posix()}" for key in inside]
    if found:
        raise ModelError(
            f"The pipeline in {folder} was not loaded, because it names or holds what could run code: "
            f"{', '.join(found[:5])}. It is unchanged. Remove these parts, which training never writes; or load the "
            "folder with diffusers itself, if you trust it."
        )


def _is_foreign(name: str, value: Any) -> bool:
    if name == "_class_name":
        return value not in FORMS
    if not isinstance(value, list):
        return False  # a number or a switch
    if len(value) != 2 or value == [None, None]:
        return len(value) != 2
    return tuple(value) not in _CLASSES and not (value[0] == "diffusers" and str(value[1]).endswith("Scheduler"))


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # diffusers says what is wrong with it
    return found if isinstance(found, dict) else {}
