"""The documents say what the program is: settings, commands, exceptions, links and examples."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import tomllib
from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest
from documents import DOCUMENTS, ROOT, blocks, steps
from settings_page import PAGE, page
from verbs import loaded

from broker_app import errors
from broker_app.cli import main
from broker_app.errors import PublishError, RoutingError
from broker_app.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from documents import Block

FIRST_SCREEN_LINES = 40
PARTS = ("how-to", "concepts", "reference", "operations")
SHIPPED = (ROOT / "config" / "broker.toml").read_text(encoding="utf-8")

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_INLINE_COMMAND = re.compile(r"`(broker-app [^`]+)`")
_ROW = re.compile(r"^\| (`.+?) \| .+ \| (.+) \|$", re.MULTILINE)
_CLASS = re.compile(r"`(\w+)`")


def every(*languages: str) -> list[Block]:
    """Return the blocks of all documents in these languages."""
    return [block for document in DOCUMENTS for block in blocks(document, *languages)]


def commands() -> list[tuple[str, str]]:
    """Return each command of ours in the documents, shown as a session or named in a text, and its place."""
    shown = [(step.command, block.place) for block in every("console") for step in steps(block)]
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        shown += [(match.group(1), document.name) for match in _INLINE_COMMAND.finditer(text)]
    return [(command, place) for command, place in shown if "broker-app " in command]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def descendants(cls: type) -> set[str]:
    """Return the names of all classes below a class."""
    below: list[type] = cls.__subclasses__()
    return {one.__name__ for one in below}.union(*map(descendants, below))


def test_first_screen_of_the_readme_has_all_its_parts() -> None:
    """The first 39 lines hold the summary, what is and is not guaranteed, both commands, the queues, the links."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[: FIRST_SCREEN_LINES - 1]
    screen = "\n".join(lines)

    assert "Celery" in lines[2]
    assert 4 <= sum(line.startswith("- ") for line in lines) <= 6
    assert "- It does not " in screen
    assert "$ make demo" in screen
    assert "$ make test" in screen
    assert "| queue | workers | use it for |" in screen
    links = set(_LINK.findall(screen))
    assert {"docs/quickstart.md", "docs/index.md", "CHANGELOG.md"} <= links
    assert all(any(link.startswith(f"docs/{part}/") for link in links) for part in PARTS)


@pytest.mark.parametrize("block", every("toml"), ids=lambda block: block.place)
def test_settings_in_the_documents_are_valid(block: Block, tmp_path: Path) -> None:
    """Each piece of a settings file loads: a whole file alone, a part of one together with the shipped file."""
    text = block.text if block.file else f"{SHIPPED}\n{block.text}"
    (tmp_path / "broker.toml").write_text(text)

    settings = load_settings(tmp_path / "broker.toml")

    assert set(tomllib.loads(block.text).get("queues", {})) <= set(settings.queues)


@pytest.mark.parametrize("block", every("python"), ids=lambda block: block.place)
def test_python_in_the_documents_compiles(block: Block) -> None:
    """Each piece of Python is Python."""
    assert ast.parse(block.text).body


@pytest.mark.parametrize("command", commands(), ids=lambda value: value[1])
def test_commands_in_the_documents_exist(command: tuple[str, str]) -> None:
    """Each command is made of verbs and options that exist."""
    words = shlex.split(command[0])
    words = words[words.index("broker-app") + 1 :]
    verb: click.Command = main
    while words:
        context = click.Context(verb)
        _, words, _ = verb.make_parser(context).parse_args(args=words)
        if not words or not isinstance(verb, click.Group):
            break
        found = loaded(verb.get_command(context, words[0]))
        assert found is not None, f"{command[1]}: {words[0]!r} is no verb in `{command[0]}`"
        verb, words = found, words[1:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_between_the_documents_lead_somewhere(document: Path) -> None:
    """Each relative link names a file that is there, and a heading that is in it."""
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name) if name else document
        assert target.exists(), f"{document.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{document.name}: {link}"


def test_table_of_exceptions_is_the_tree() -> None:
    """producers.md names every exception of a call, and says after which the task may have been taken."""
    rows = dict(_ROW.findall((ROOT / "docs" / "how-to" / "producers.md").read_text(encoding="utf-8")))
    table = {name: taken for names, taken in rows.items() for name in _CLASS.findall(names)}

    of_settings = {"InvalidQueueName"}  # no call can raise it
    assert set(table) | of_settings == {"RoutingError"} | descendants(RoutingError) | descendants(PublishError)
    for name in descendants(PublishError):
        assert ("perhaps" in table[name]) == getattr(errors, name).maybe_taken


def test_page_of_the_settings_is_made_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """settings.md has every setting, with type, limits and default, as the program reads it."""
    monkeypatch.delenv("XDG_STATE_HOME")

    assert PAGE.read_text(encoding="utf-8") == page(), "run `.venv/bin/python tests/support/settings_page.py`"


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("broker_app", "broker_app/queues")  # a linked folder is not entered
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ],
)
def test_examples_in_docstrings_run(module: str) -> None:
    """Each example prints what stands below it."""
    outcome = doctest.testmod(import_module(module))

    assert outcome.attempted
    assert not outcome.failed
