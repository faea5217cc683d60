"""The verbs of `broker-app` and the sub-commands of `celery` are the same."""

from __future__ import annotations

import tomllib
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from documents import ROOT
from verbs import loaded

from broker_app.cli import exit_codes, main

if TYPE_CHECKING:
    from pathlib import Path


def test_every_verb_is_a_sub_command_of_celery() -> None:
    """The entry points of the package are the verbs, each with the same command."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    points = project["entry-points"]["celery.commands"]
    assert {name: resolve_name(value) for name, value in points.items()} == main.commands


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("cancel",), "broker-app: Missing argument 'TASK_ID…'; see `broker-app cancel --help`"),
        (("queus",), "broker-app: No such command 'queus' (did you mean 'queues'?); see `broker-app --help`"),
        (("queues", "list", "--evry", "1"), "broker-app: No such option '--evry'. Did you mean '--every'?"),
        (
            ("queues", "list", "--every", "nan"),
            "broker-app: Invalid value for '--every': expected a number from 0.1, got 'nan'",
        ),
        (
            ("fleet", "scale", "lopri", "many"),
            "broker-app: Invalid value for '[NODES]': expected a whole number from 0 to 1,000, got 'many'",
        ),
        (
            ("send", "shop.add", "--priority", "9.5"),
            "broker-app: Invalid value for '--priority': expected a whole",
        ),
        (("queues", "list", "--count", "2"), "broker-app: --count requires --watch; see `broker-app queues list"),
        (("topology", "migrate", "lopri", "--patience", "inf"), "broker-app: Invalid value for '--patience'"),
        (
            ("-A", "no_such_module", "queues", "list"),
            "broker-app: -A no_such_module: expected a module with an app",
        ),
    ],
)
def test_words_that_a_command_does_not_take_are_one_line(words: tuple[str, ...], line: str) -> None:
    """It says what was wrong and where the help is, on stderr, with the exit code for it."""
    done = CliRunner().invoke(main, words, prog_name="broker-app")
    assert (done.exit_code, done.stdout) == (exit_codes.USAGE, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no database')\n", "RuntimeError: no database"),
        ("def (\n", "SyntaxError: invalid syntax"),
    ],
)
def test_an_app_module_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    """Whatever a user's module raises while it is imported is named in one line, not shown as a traceback."""
    (tmp_path / "failing_shop.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(main, ("-A", "failing_shop", "queues", "list"), prog_name="broker-app")
    assert (done.exit_code, done.stderr.count("\n")) == (exit_codes.USAGE, 1)
    assert f"-A failing_shop: expected a module with an app, got: {reason}" in done.stderr


@pytest.mark.parametrize("name", ["no_shop", "no_shop.tasks:app", "email"])
def test_an_app_that_is_not_found_hints_at_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A missing module, or another one of that name, may come from the wrong folder, which the error names."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ("-A", name, "check"), prog_name="broker-app")
    assert (done.exit_code, done.stderr.count("\n")) == (exit_codes.USAGE, 1)
    assert str(tmp_path) in done.stderr


def test_a_group_without_a_verb_shows_its_help() -> None:
    """Without a verb, all of them are listed."""
    assert "scheduled" in CliRunner().invoke(main, ["queues"]).output


def test_every_verb_loads_and_ends_its_help_with_an_example() -> None:
    """Each verb, and each verb below it, says what it does and shows a command line that works."""
    context = click.Context(main)
    for name in main.list_commands(context):
        verb = loaded(main.get_command(context, name))
        assert verb is not None
        below = list(verb.commands.values()) if isinstance(verb, click.Group) else []
        for command in (verb, *below):
            assert command.help, name
        assert f"broker-app {name}" in (verb.epilog or "") or "Examples" in (verb.epilog or ""), name
