"""The names of samplers are listed in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import daskt2i
from daskt2i.config.samplers import SAMPLERS, SAMPLERS_TEXT

PACKAGE = Path(daskt2i.__file__).parent


def test_no_other_module_lists_the_samplers() -> None:
    lists = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if sum(name in text for name in SAMPLERS) < 2:
            continue
        for node in ast.walk(ast.parse(text)):
            several = isinstance(node, ast.Tuple | ast.List | ast.Set)
            inner = ast.walk(node) if several else [node]
            texts = [one.value for one in inner if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            lines = [text for text in texts if "\n" not in text]  # docstrings may name some
            if sum(any(name in line for line in lines) for name in SAMPLERS) > 1:
                lists.add(path.relative_to(PACKAGE).as_posix())
    assert lists == {"config/samplers.py"}
    assert SAMPLERS_TEXT == "dpm++, ddim or euler"
