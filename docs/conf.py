"""Sphinx' settings for `make docs`; every warning is an error."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version

project = "broker-app"
author = "the broker-app authors"
version = release = installed_version("broker-app")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r".*")]

myst_heading_anchors = 4  # the anchors are GitHub's: links work there too
suppress_warnings: list[str] = []

autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "code"

if os.environ.get("DOCS_INTERSPHINX"):  # needs the internet, so it is off unless asked for
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "celery": ("https://docs.celeryq.dev/en/stable", None),
        "kombu": ("https://docs.celeryq.dev/projects/kombu/en/stable", None),
    }

html_theme = "furo"
html_title = f"broker-app {release}"
html_show_sphinx = False
