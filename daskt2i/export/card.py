"""The data card of an export: what the rows are, how they were made, and how to read them.

Covers: `README.md`, with the settings that the Hugging Face hub reads; `daskt2i-export.json` for programs.
Does not cover: the files of a format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.export.rows import Exported
from daskt2i.facts.stored import facts_of_images
from daskt2i.redact import without_secrets
from daskt2i.store.run_folder import RunFolder

_READING = {
    "webdataset": 'webdataset.WebDataset("{place}{tars}").decode()',
    "npy": 'numpy.load("{place}latent_mean.npy", mmap_mode="r")',
    "parquet": 'pyarrow.parquet.read_table("{place}data")',
    "hf": 'datasets.load_dataset("{place}", split="train")',
    "kohya-npz": "put the images beside these files, and train with --cache_latents_to_disk",
    "mds": 'streaming.StreamingDataset(local="{place}")',
}


def reading(to: str, tars: int, dest: str = "") -> str:
    """How to read an export, all of it.

    Args:
        tars: how many tars it has.
        dest: the folder, for a reader who is elsewhere; "" for one who is in it.
    """
    alone = "." if to in ("hf", "mds") else ""
    place = f"{dest}{'' if alone else '/'}" if dest else alone
    names = "00000.tar" if tars < 2 else f"{{00000..{tars - 1:05d}}}.tar"
    return _READING[to].format(place=place, tars=names)


def about_export(exported: Exported, to: str, where: str | None) -> dict[str, Any]:
    """What programs may want to know of an export."""
    about = exported.about
    return {
        "format": to,
        "rows": len(exported.numbers),
        "where": where,
        "latent_shape": list(exported.latent_shape),
        "image_encoder": about["image_encoder"],
        "text_encoder": about["text_encoder"],
        "source": without_secrets(about["identity"].get("source", {})),
        "licences": _licences(exported),
        "fingerprint": about["fingerprint"],
    }


def card(about: Mapping[str, Any], tars: int) -> str:
    """The text of `README.md`.

    Args:
        about: the result of `about_export`.
        tars: how many tars the export has.
    """
    image, text = about["image_encoder"], about["text_encoder"]
    licences = "\n".join(f"- {name}: {count:,} images" for name, count in about["licences"].items())
    front = ""
    if about["format"] == "hf":
        front = (
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n"
            "tags:\n- latents\n- daskt2i\n---\n"
        )
    return f"""{front}# Latents and text states of {about["rows"]:,} images

Written by daskt2i (`export --to {about["format"]}`) from a store with the fingerprint `{about["fingerprint"]}`.

- Read it: `{reading(about["format"], tars)}`
- Rows: {about["rows"]:,}, all accepted{f"; only those with `{about['where']}`" if about["where"] else ""}
- Latents: {" x ".join(map(str, about["latent_shape"]))}, raw: mean and standard deviation of the posterior, not scaled,
  not shifted. A denoiser needs `(latent - shift_factor) * scaling_factor`, or the same by channel if the encoder has
  `latents_mean` and `latents_std`.

## Image encoder

```json
{json.dumps(image, indent=1)}
```

## Text encoder

```json
{json.dumps(text, indent=1)}
```

## Source

```json
{json.dumps(about["source"], indent=1)}
```

## Licences of the images

{licences or "Not known: the store does not have them. Ask the source; `insights` lists them if the source gives them."}
"""


def licences_of(folder: RunFolder, image_ids: Iterable[int]) -> dict[str, int]:
    """Licence -> number of images, from the table of facts in the run folder; empty if it has none."""
    try:
        found = facts_of_images(folder, ("licence",))["licence"]
    except ConfigError:
        return {}
    counts = Counter(found.get(int(number)) or "" for number in image_ids)
    return {name: count for name, count in counts.most_common() if name}


def _licences(exported: Exported) -> dict[str, int]:
    """Licence -> number of exported images."""
    return licences_of(exported.store.folder, exported.image_ids().tolist())
