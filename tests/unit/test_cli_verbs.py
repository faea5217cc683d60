"""The verbs of `broker-app` and the sub-commands of `celery` are the same."""

from __future__ import annotations

import tomllib

import click
from documents import ROOT

from broker_app.cli import _VERBS, main


def test_every_verb_is_a_sub_command_of_celery() -> None:
    """The entry points of the package are the verbs, each with the same function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["entry-points"]["celery.commands"] == _VERBS


def test_every_verb_loads_and_ends_its_help_with_an_example() -> None:
    """Each verb, and each verb below it, says what it does and shows a command line that works."""
    context = click.Context(main)
    for name in main.list_commands(context):
        verb = main.get_command(context, name)
        assert verb is not None
        below = list(verb.commands.values()) if isinstance(verb, click.Group) else []
        for command in (verb, *below):
            assert command.help, name
        assert f"broker-app {name}" in (verb.epilog or "") or "Examples" in (verb.epilog or ""), name
