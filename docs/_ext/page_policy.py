"""Every page tells the browser to load nothing from another host (a Content-Security-Policy).

Scripts and styles inside a page are allowed, because the theme and the search have some.
"""

from docutils import nodes
from sphinx.application import Sphinx

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'self'"
)


def _add(app: Sphinx, page: str, template: str, context: dict[str, object], doctree: nodes.document | None) -> None:
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />'
    context["metatags"] = f"{meta}{context.get('metatags', '')}"


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.connect("html-page-context", _add)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
