"""What a workflow shows of itself: its data, its encoders, its training, and in a notebook all settings.

Covers: the few settings that a reader looks for first; the file, without secrets.
Does not cover: the settings (`settings`), how a view is rendered (`view`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from daskt2i import redact
from daskt2i.view import Section, View


def workflow_view(settings: Mapping[str, Any]) -> View:
    """A workflow.

    Args:
        settings: all of them, as in a workflow file. Secrets in them are hidden.
    """
    shown: Any = redact.without_secrets(dict(settings))
    dataset, train = shown["dataset"], shown["train"]
    rows = [
        ("source", _words(dataset["source"])),
        *([("where", dataset["where"])] if dataset.get("where") else []),
        ("pictures", _pictures(dataset["image"])),
        ("image encoder", _words(dataset["encoders"]["image"])),
        ("text encoder", _words(dataset["encoders"]["text"])),
        ("training", f"{train['steps']:,} steps of {train['batch']:,} samples, model {train['model']['preset']}"),
        ("scheduler", shown["run"]["scheduler"]),
    ]
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return View("Workflow", tuple(rows), about=shown["name"], sections=(Section("All settings", text=text),))


def _words(component: Mapping[str, Any]) -> str:
    """The name of the class and its arguments."""
    given = [f"{name}={value}" for name, value in component.items() if name not in ("class", "storage_options")]
    return " ".join([component["class"].rpartition(".")[2], ", ".join(given)]).rstrip()


def _pictures(image: Mapping[str, Any]) -> str:
    """The sizes of pictures."""
    if buckets := image.get("buckets"):
        sizes = f"buckets of {buckets['area']} px in steps of {buckets['step']}"
    else:
        sizes = f"{' and '.join(map(str, image.get('resolutions') or [image['resolution']]))} px"
    return f"{sizes}{', also mirrored' if image.get('flip') else ''}"
