"""How Sphinx builds the pages of this folder: `python -m sphinx -W -b html docs docs/_build`.

Covers: which extensions are used, how docstrings are read, what the theme shows and loads.
Does not cover: the pages themselves; why it is Sphinx (decisions/0009-documentation.md).

No page may ask another host for anything: no fonts, scripts or counters from elsewhere. `_ext/page_policy.py` makes
browsers refuse it, and tests/docs/test_site.py checks the pages.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from daskt2i import __version__  # noqa: E402  # the path above leads to it

project = "daskt2i"
copyright = "the daskt2i authors, Apache-2.0"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_line",
    "page_policy",
    "plain_docstrings",
    "source_links",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute"]  # the last is of myst-nb

# Pages. Notebooks are shown as they were saved (notebooks/save_outputs.py); a build runs none.
nb_execution_mode = "off"
myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3  # the anchors of GitHub, so that a link works in both places
default_role = "code"  # a single backtick in a docstring means code, as it does in Markdown
smartquotes = False  # `--set` in a text stays as it is typed
highlight_language = "none"  # blocks of pages name their language
copybutton_exclude = ".linenos, .gp"

# The reference of names. Heavy libraries are imported inside functions, so importing daskt2i takes a moment.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # `start, stop: …` describes two
toc_object_entries_show_parents = "hide"
nitpicky = False  # types of numpy, torch and xarray have no page here, and no inventory is fetched from elsewhere

# The theme: everything that it loads lies in _static/.
html_theme = "pydata_sphinx_theme"
html_title = "daskt2i"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "daskt2i"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": ["sphinx-version"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "use_edit_page_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
