"""docs/reference/commands.md says what the commands are."""

from __future__ import annotations

import ast
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest
from verbs import loaded

from broker_app.cli import exit_codes, main
from broker_app.cli.calls import parse_call

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("broker-app ")[2] for line in TEXT.splitlines() if re.match(r"\$ .*broker-app ", line)]
LINES = [line for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def meanings() -> dict[str, tuple[int, str]]:
    """Return value and meaning of each exit code by name: the text under each constant."""
    body = ast.parse(Path(exit_codes.__file__).read_text(encoding="utf-8")).body
    found = {}
    for node, below in pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assert isinstance(below, ast.Expr), f"{ast.unparse(node)} has no text below it"
            name = node.targets[0].id
            found[name] = (getattr(exit_codes, name), ast.literal_eval(below.value))
    return found


def test_exit_codes() -> None:
    """The table shows each code with its name and its description in the program."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+?) \|$", TEXT, re.MULTILINE)
    assert {name: (int(code), words) for code, name, words in rows} == meanings()


def test_every_verb() -> None:
    """Each verb has its section, and in it the options that `make docs` generates."""
    verbs = main.list_commands(click.Context(main))
    assert sorted(re.findall(r"^## `(\w+)`$", TEXT, re.MULTILINE)) == verbs
    assert sorted(re.findall(r"^```{help} (\w+)$", TEXT, re.MULTILINE)) == verbs


@pytest.mark.parametrize("line", COMMANDS)
def test_examples(line: str) -> None:
    """Each example is made of verbs and options that exist."""
    command: click.Command = main
    words = shlex.split(line, comments=True)
    while words:
        context = click.Context(command)
        _, words, _ = command.make_parser(context).parse_args(args=words)
        if not isinstance(command, click.Group):
            break
        verb = loaded(command.get_command(context, words.pop(0))) if words else command
        assert verb is not None
        command = verb


def test_there_are_examples() -> None:
    """The test above has something to test."""
    assert len(COMMANDS) > 5
    assert len(LINES) == 3


@pytest.mark.parametrize("line", LINES)
def test_example_lines_of_a_file(line: str) -> None:
    """Each line of a file of calls is a call."""
    assert parse_call(json.loads(line)).task
