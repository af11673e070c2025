"""Links from a page to a file outside `docs/`.

A link to a module is plain text on the site: the site has no copy of the source, and sends its readers to no host. A
link to CHANGELOG.md, CONTRIBUTING.md or SECURITY.md leads to the page that shows it here.

Covers: links that lead out of `docs/`, and links to folders.
Does not cover: links to pages and to files below `docs/`, which Sphinx resolves.
"""

from pathlib import Path

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SHOWN_AS = {
    "CHANGELOG.md": "reference/changes",
    "CONTRIBUTING.md": "why/contributing",
    "README.md": "index",
    "SECURITY.md": "why/security",
}
"""Files at the top of the repository, and the pages that show them."""


class SourceLinks(SphinxTransform):
    """Changes such links before Sphinx looks for their targets."""

    default_priority = 5

    def apply(self, **arguments: object) -> None:
        """Called by Sphinx for each page."""
        docs = Path(self.env.srcdir).resolve()
        here = Path(self.env.doc2path(self.env.docname)).resolve().parent
        for link in list(self.document.findall(addnodes.download_reference)):
            if docs not in (docs / str(link["reftarget"]).lstrip("/")).resolve().parents:
                link.replace_self(list(link.children))
        for link in list(self.document.findall(addnodes.pending_xref)):
            name = str(link.get("reftarget", "")).partition("#")[0]
            if not name or link.get("reftype") != "myst":
                continue
            # A page is named without its suffix. What CONTRIBUTING.md links to is relative to the top.
            pages = [docs / f"{name}{suffix}" for suffix in (".md", ".ipynb")]
            places = pages if link.get("refdomain") == "doc" else [here / name, docs.parent / name]
            place = next((found for one in places if (found := one.resolve()).exists()), None)
            if place is None or (place.is_file() and docs in place.parents):
                continue
            if place.parent == docs.parent and place.name in SHOWN_AS:
                link.attributes |= {"refdomain": "doc", "reftarget": SHOWN_AS[place.name], "reftargetid": None}
            else:
                link.replace_self(list(link.children))


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_transform(SourceLinks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
