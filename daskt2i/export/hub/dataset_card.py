"""The data card of a pushed run folder: `README.md`, with the header that the hub reads.

Covers: licence, size and task in the header; rows, encoders, scaling, source, licences by count, how to read it.
Does not cover: the card of an exported folder (`export.card`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

from daskt2i.export.card import licences_of
from daskt2i.redact import without_secrets
from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import MANIFEST, RunFolder
from daskt2i.store.zarr_store import ZarrStore

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"))

_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)", re.IGNORECASE)
_IDENTIFIER = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|apache-2\.0|mit|odbl|pddl", re.IGNORECASE)
"""Licences that the hub knows by an identifier, as sources write them."""


def dataset_card(folder: RunFolder, about: Mapping[str, Any], repository: str) -> str:
    """The text of `README.md`.

    Args:
        about: what `encode` wrote about the store.
        repository: `OWNER/NAME`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, ids, captions = 0, list[int](), 0
    for member in members(folder):
        table = pq.read_table(
            io.BytesIO(member.folder.read(MANIFEST)), columns=["row", "status", "image_id", "captions"]
        )
        there = member.kept(table.column("row").to_numpy())
        kept = table.filter(pa.array(there & (table.column("status").to_numpy() == "accepted")))
        rows += int(there.sum())
        ids += kept.column("image_id").to_pylist()
        captions += sum(kept.column("captions").to_pylist())
    accepted, licences = len(ids), licences_of(folder, ids)
    return f"""---
license: {licence_for(licences)}
size_categories:
- {size_category(accepted)}
task_categories:
- text-to-image
tags:
- latents
- daskt2i
configs:
- config_name: rows
  data_files: {MANIFEST}
---
# Latents and text states of {accepted:,} images

Written by daskt2i (`push`) from a store with the fingerprint `{about["fingerprint"]}`.

```python
import daskt2i

store = daskt2i.open_store("hf://datasets/{repository}")
```

`store` is an xarray Dataset that reads what you use. To train on it, copy it first, which makes a run folder:
`hf download {repository} --repo-type dataset --local-dir runs/NAME`.

- Rows: {rows:,}, of which {accepted:,} are accepted, with {captions:,} captions.
  `{MANIFEST}` has a line for each row.
- Latents are raw: mean and standard deviation of the posterior, not scaled, not shifted. A denoiser needs
  `(latent - shift_factor) * scaling_factor`, or the same by channel if the encoder has `latents_mean` and
  `latents_std`.
- The images are not here, and the licences of the images hold for what was made from them.

## Arrays

{_arrays(folder)}

## Image encoder

```json
{_as_json(about["image_encoder"])}
```

## Text encoder

```json
{_as_json(about["text_encoder"])}
```

## Source

```json
{_as_json(about["identity"].get("source", {}))}
```

## Licences of the images

{_list(licences) or "Not known: the source does not give them, or `insights` was not run before the push."}
"""


def licence_for(licences: Mapping[str, int]) -> str:
    """The identifier that the hub has for the licence of all images; `other` for several, `unknown` for none."""
    if len(licences) != 1:
        return "other" if licences else "unknown"
    (name,) = licences
    address = _CREATIVE_COMMONS.search(name)
    written = f"cc-{address[1]}-{address[2]}" if address else "-".join(name.split())
    return written.lower() if _IDENTIFIER.fullmatch(written) else "other"


def size_category(rows: int) -> str:
    """The size as the hub writes it: `10K<n<100K`."""
    return next((name for limit, name in (*_SIZES, *_LARGER) if rows < limit), "10B<n<100B")


def _arrays(folder: RunFolder) -> str:
    found = checked_layout(ZarrStore(folder))["arrays"]
    lines = [f"| `{name}` | {', '.join(('row', *one['dims']))} | {one['dtype']} |" for name, one in found.items()]
    return "\n".join(("| array | dimensions | dtype |", "|---|---|---|", *lines))


def _as_json(value: Any) -> str:
    return json.dumps(without_secrets(value), indent=1)


def _list(licences: Mapping[str, int]) -> str:
    return "\n".join(f"- {name}: {count:,} images" for name, count in licences.items())
