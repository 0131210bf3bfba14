"""The site of linuxsync: `python -m sphinx -W docs FOLDER` builds it; nothing is fetched for that."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "linuxsync"
author = "the authors of linuxsync"
project_copyright = "the authors of linuxsync; LGPL-2.1-or-later"

extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings", "generated_pages"]
exclude_patterns = ["man"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Every reference must lead somewhere; what leads to Python's own names the extension `docstrings` lets pass.
nitpicky = True
default_role = "py:obj"
smartquotes = False  # they make one dash of --help

autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,  # what a class's docstring tells of them is put there by the extension `docstrings`
    "inherited-members": "object,int,tuple,Enum,BaseException,OSError,RuntimeError,ValueError",
}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "linuxsync"
html_copy_source = False
html_show_sphinx = False
