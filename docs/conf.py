"""Settings of Sphinx for `make docs`, which treats warnings as errors."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import click
from docutils import nodes
from docutils.parsers.rst import Directive

from broker_app.cli import main

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "broker-app"
version = release = installed_version("broker-app")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!broker_app).*"),  # types of Celery and the standard library
    (r"py:class", r"broker_app\.(fleet|local_broker)\..*"),  # types that are not public
]
default_role = "code"
myst_enable_extensions = ["tasklist"]
myst_heading_anchors = 4  # the anchors are GitHub's, so links work there too

autodoc_typehints = "description"
autodoc_member_order = "bysource"

if os.environ.get("DOCS_INTERSPHINX"):  # needs the internet: off unless asked for
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "celery": ("https://docs.celeryq.dev/en/stable", None),
        "kombu": ("https://docs.celeryq.dev/projects/kombu/en/stable", None),
    }

html_theme = "furo"
html_title = f"broker-app {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_show_copyright = False


class Help(Directive):
    """Shows a command's ``--help``, and that of each of its subcommands: `{help} queues` in MyST."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a title and a block for each command."""
        root = click.Context(main, info_name="broker-app")
        name = self.arguments[0]
        command = main.get_command(root, name)
        if command is None:
            raise self.error(f"there is no command {name!r}")
        context = click.Context(command, info_name=name, parent=root, terminal_width=100)
        if not isinstance(command, click.Group):
            return [_block(context)]
        return [node for verb in command.list_commands(context) for node in _subcommand(command, verb, context)]


def _subcommand(group: click.Group, verb: str, parent: click.Context) -> list[nodes.Node]:
    command = group.get_command(parent, verb)
    assert command is not None
    context = click.Context(command, info_name=verb, parent=parent, terminal_width=100)
    return [nodes.rubric("", "", nodes.literal("", context.command_path)), _block(context)]


def _block(context: click.Context) -> nodes.literal_block:
    text = context.get_help().replace("\b", "")
    return nodes.literal_block(text, text, language="none")


def setup(app: Sphinx) -> None:
    """Add the directive, and leave out the tree of the errors where autodoc would run its lines together."""

    def without_tree(_: Sphinx, what: str, name: str, *rest: object) -> None:
        lines = rest[-1]
        if (what, name) == ("module", "broker_app.errors") and isinstance(lines, list):
            lines.clear()

    app.add_directive("help", Help)
    app.connect("autodoc-process-docstring", without_tree)
