"""The `celery multi` command as a value, and the environment of the workers."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.fleet.multi import child_environment, launch, start_command
from broker_app.fleet.nodes import Fleet, Node
from broker_app.fleet.state import FleetState
from broker_app.settings import FleetSettings

if TYPE_CHECKING:
    import pytest

NODES = (Node("lopri", "shop.lopri", "h"),)
FLEET = Fleet("lopri", "shop.lopri", NODES, prefetch=2, settings=FleetSettings(concurrency=7))
PREFORK = FleetSettings(
    pool="prefork",
    time_limit_seconds=90,
    soft_time_limit_seconds=80.5,
    max_tasks_per_child=100,
    max_memory_per_child_mb=300,
    nice=5,
)


def test_the_command_holds_all_that_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue, pool, slots, prefetch, pid and log files are options of the one command."""
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    command = start_command(FLEET, "shop", FleetState(Path("/s"), "shop"))

    assert command[3:5] == ["start", "shop.lopri@h"]
    assert command[command.index("-A") + 1] == "shop"
    assert {
        "--queues=lopri",
        "--pool=threads",
        "--concurrency=7",
        "--prefetch-multiplier=2",
        "--pidfile=/s/run/shop/%n.pid",
        "--logfile=/s/log/shop/%n%I.log",
    } <= set(command)


def test_a_prefetch_that_nobody_chose_is_left_to_the_workers() -> None:
    """Without the option a worker adapts its prefetch."""
    command = start_command(replace(FLEET, prefetch=None), "shop", FleetState(Path("/s"), "shop"))
    assert not [part for part in command if "prefetch" in part]


def test_limits_and_recycling_are_options_of_celery_in_its_own_units() -> None:
    """Seconds are seconds, MiB are celery's KiB, and a nice level is that of the whole command."""
    command = start_command(replace(FLEET, settings=PREFORK), "shop", FleetState(Path("/s"), "shop"))

    assert command[:3] == ["nice", "-n", "5"]
    assert {
        "--time-limit=90",
        "--soft-time-limit=80.5",
        "--max-tasks-per-child=100",
        "--max-memory-per-child=307200",
    } <= set(command)


def test_a_path_with_blanks_goes_where_celery_multi_does_not_make_a_folder_of_its_pieces() -> None:
    """Such paths are quoted in --append, and the plain options hold no folder."""
    command = start_command(FLEET, "shop", FleetState(Path("/my state"), "shop"))

    append = next(word for word in command if word.startswith("--append="))
    assert "--pidfile='/my state/run/shop/%n.pid'" in append
    assert "--pidfile=%n.pid" in command
    assert f"--executable={shlex.quote(sys.executable)}" in append


def test_workers_find_the_settings_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths in the environment are handed on absolute, overrides win, and this process's own stays as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER_APP_CONFIG", "broker.toml")
    monkeypatch.setenv("BROKER_APP_PREFIX", "a.")

    environment = child_environment({"BROKER_APP_PREFIX": "b.", "BROKER_APP_STATE_DIR": "state"})

    assert environment["BROKER_APP_CONFIG"] == str(tmp_path / "broker.toml")
    assert environment["BROKER_APP_STATE_DIR"] == str(tmp_path / "state")
    assert environment["BROKER_APP_PREFIX"] == "b."


def test_a_launch_tells_what_was_written_before_the_end() -> None:
    """A command that fails hands back its lines, without the empty ones."""
    done = launch([sys.executable, "-c", "import sys; sys.exit('one\\n\\ntwo')"], {}, 100)
    assert (done.is_ok, done.lines) == (False, ("one", "two"))


def test_a_launch_is_bounded_in_time() -> None:
    """A command that hangs is ended and told as such."""
    done = launch([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.2)
    assert (done.is_ok, done.lines) == (False, ("not done in 0.2 s",))
