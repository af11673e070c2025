"""The HTML page of the first rows of a data set: one file that makes no request.

Covers: thumbnails inside the page, captions, sizes, rows that would be rejected.
Does not cover: reading rows (`first_rows`), writing the file (`dashboard.report.page_file`).
"""

from __future__ import annotations

import base64

from daskt2i.formatting import POLICY, STYLE
from daskt2i.insights.first_rows import LookResult, SeenRow
from daskt2i.notebooks import html_text

_STYLE = """
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; } .facts td:first-child { width: 8em;
  color: #5b6876; }
.row { display: grid; grid-template-columns: 132px minmax(0, 1fr); gap: 16px; margin: 0 0 12px; }
.row img, .row .none { width: 132px; height: 132px; border-radius: 5px; background: #eceff3; display: block; }
.row h3 { overflow-wrap: anywhere; white-space: pre-wrap; } .row p { margin: 0 0 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.row .size { color: #5b6876; font-size: 13px; } .row .rejected { color: #b3261e; font-weight: 600; }
"""


def page(result: LookResult) -> str:
    """The whole page. Text that UTF-8 cannot hold has question marks."""
    title = "First rows of a data set"
    table = "".join(f"<tr><td>{html_text(name)}</td><td>{html_text(value)}</td></tr>" for name, value in result.facts())
    said = (text.replace(" (source)", "") for text in result.notes)  # a page has no options
    notes = "".join(f'<p class="note">{html_text(text)}</p>' for text in said)
    rows = "".join(map(_row, result.first))
    made = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}{_STYLE}</style></head>'
        f'<body><main><h1>{title}</h1><div class="panel"><table class="facts">{table}</table></div>'
        f"{notes}<h2>Rows</h2>{rows}</main></body></html>"
    )
    return made.encode("utf-8", "replace").decode("utf-8")


def _row(seen: SeenRow) -> str:
    png, name = seen.png(), html_text(seen.row.file_name)
    data = "" if png is None else base64.b64encode(png).decode("ascii")
    picture = f'<img alt="{name}" src="data:image/png;base64,{data}">' if data else '<div class="none"></div>'
    kind = "rejected" if seen.reason else "size"
    captions = "".join(f"<p>{html_text(text)}</p>" for text in seen.captions())
    return (
        f'<div class="panel row">{picture}<div><h3>{seen.row.index} &nbsp; {name}</h3>'
        f'<p class="{kind}">{html_text(seen.words())}</p>{captions}</div></div>'
    )
