"""Commands load when they are used: help and worker start-up do not pay for the others."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from celery.bin.celery import celery
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from broker_app.cli import main
from broker_app.cli.verbs import VERBS

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from broker_app.cli.lazy import LazyCommand

HEAVY = (
    "celery",
    "kombu",
    "amqp",
    "pika",
    "sqlalchemy",
    "pydantic",
    "prometheus_client",
    "rich",
    "importlib.metadata",
)

OWN = "broker_app.cli.command broker_app.cli.exit_codes broker_app.cli.lazy broker_app.cli.output broker_app.text"
"""Modules that may be loaded in addition to the named module and its packages."""

PRELOADING = """
import sys
from celery import Celery, signals
from celery.bin.celery import main
app = Celery("plain", broker="memory://")
app.user_options["preload"].add(__import__("click").Option(("--colour",)))
signals.user_preload_options.connect(lambda options, **_: print("options", options), weak=False)
sys.argv = ["celery", "-A", "preloading:app", *sys.argv[1:]]
sys.exit(main())
"""


def _modules_after(code: str, cwd: Path) -> set[str]:
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print('modules', *sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=110, check=False
    )
    return set(done.stderr.partition("modules ")[2].split())


def test_help_loads_neither_celery_nor_a_library(tmp_path: Path) -> None:
    """`broker-app --help` loads click and nothing heavy."""
    modules = _modules_after("from broker_app.cli import main; main(['--help'])", tmp_path)
    assert "broker_app.cli" in modules
    assert not modules.intersection(HEAVY)


def test_the_entry_points_load_click_and_nothing_else(tmp_path: Path) -> None:
    """Every `celery` command loads only a table of this package: no library but click, no command."""
    before = _modules_after("import click", tmp_path)
    modules = _modules_after("import click, broker_app.cli.verbs", tmp_path) - before
    own = {name for name in modules if name.startswith("broker_app")}
    assert own == {"broker_app", "broker_app.cli", "broker_app.cli.verbs", *OWN.split()}
    assert not modules.intersection(HEAVY)


@pytest.mark.parametrize(
    ("module", "unused"),
    [("broker_app.cli.fleet", "pika"), ("broker_app.results.sql", "sqlalchemy.dialects.postgresql")],
)
def test_what_a_start_does_not_use_is_not_loaded(tmp_path: Path, module: str, unused: str) -> None:
    """A command of fleets loads nothing that moves messages; a worker loads only the database that it has."""
    modules = _modules_after(f"import {module}", tmp_path)
    assert module in modules
    assert unused not in modules


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_list_of_commands_shows_the_command_s_own_summary(verb: LazyCommand) -> None:
    """The short help is that of the command, at every width of a terminal."""
    command = verb.load()
    assert (verb.name, verb.hidden, verb.deprecated) == (command.name, command.hidden, command.deprecated)
    for limit in range(10, 150):
        assert verb.get_short_help_str(limit) == command.get_short_help_str(limit)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@pytest.mark.parametrize("group", [main, celery], ids=["broker-app", "celery"])
def test_a_command_s_help_is_its_own(group: click.Group, verb: LazyCommand) -> None:
    """`broker-app X --help` and `celery X --help` print the help of the command that runs."""
    assert verb.name is not None
    shown = CliRunner().invoke(group, [verb.name, "--help"], prog_name="prog")
    alone = CliRunner().invoke(verb.load(), ["--help"], prog_name=f"prog {verb.name}")
    assert shown.exit_code == 0
    assert shown.output.partition("\n")[2] == alone.output.partition("\n")[2]


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "to", {"topology"}),
        (["fleet"], "st", {"start", "stop", "stopwait", "status"}),
        (["queues", "list"], "--w", {"--watch"}),
    ],
)
def test_completion_knows_commands_and_options(words: list[str], incomplete: str, found: set[str]) -> None:
    """The shell completes names of commands, of verbs below them, and of options."""
    for group in (main, celery):
        completed = ShellComplete(group, {}, "prog", "_PROG").get_completions(words, incomplete)
        assert found == {item.value for item in completed}


def test_preload_options_of_an_app_reach_its_commands(tmp_path: Path) -> None:
    """An option that an app adds to every Celery command is accepted and announced here too."""
    (tmp_path / "preloading.py").write_text(PRELOADING, encoding="utf-8")
    command = [sys.executable, "preloading.py", "metrics", "--colour", "red", "dashboard"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    options, _, dashboard = done.stdout.partition("\n")
    assert options == "options {'colour': 'red'}"
    assert '"panels"' in dashboard
