"""`broker-app fleet` without a broker: refusals and output."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from celery.bin.celery import celery
from click.testing import CliRunner

from broker_app import BrokerApp
from broker_app.cli import main
from broker_app.fleet import patience_seconds
from broker_app.fleet.overrides import Overrides

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

SHOP = 'from broker_app import BrokerApp\napp = BrokerApp("shop", set_as_current=False)\n'
VERBS = ["start", "stop", "stopwait", "restart", "reload", "status", "plan", "logs", "supervise"]
UNDETERRED = {"stop": 0, "stopwait": 0, "status": 3, "logs": 1}
"""Verbs that pid files suffice for, and their exit codes if nothing runs and the settings are wrong."""


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of a project, current, with a state folder next to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / f"shop_{tmp_path.name}.py").write_text(SHOP)
    return tmp_path


def fleet(project: Path, *arguments: str) -> Result:
    """Run ``broker-app fleet`` in this process."""
    return CliRunner().invoke(main, ["-A", f"shop_{project.name}", "fleet", *arguments])


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_queue_is_refused_with_the_nearest_name(project: Path, verb: str) -> None:
    """Every verb refuses an unknown queue, and does nothing for the others that were named."""
    done = fleet(project, verb, "default", "loprio")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "did you mean 'lopri'?" in done.stderr
    assert not list(project.glob("state/run/*/*.pid"))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in UNDETERRED])
def test_bad_settings_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """A verb that starts something refuses settings that are wrong, with their exit code, and makes no folder."""
    monkeypatch.setenv("BROKER_APP_QUEUES__LOPRI__FLEET__NODES", "-1")

    done = fleet(project, verb)

    assert (done.exit_code, done.stdout) == (3, "")
    assert "QUEUES__LOPRI__FLEET__NODES" in done.stderr
    assert not (project / "state").exists()


@pytest.mark.parametrize("verb", UNDETERRED)
def test_bad_settings_are_told_and_what_is_left_of_them_is_used(
    project: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Commands that only look or stop say what is wrong, and go on with the file's state folder."""
    monkeypatch.delenv("BROKER_APP_STATE_DIR")
    monkeypatch.setenv("BROKER_APP_CONFIG", "broker.toml")
    (project / "broker.toml").write_text("state_dir = 'elsewhere'\n[queues.lopri.fleet]\nnodes = -1\n")

    done = fleet(project, verb)

    assert done.exit_code == UNDETERRED[verb]
    assert "queues.lopri.fleet.nodes" in done.stderr
    assert f"the state folder is {project}/elsewhere" in done.stderr
    assert not (project / "elsewhere").exists()


@pytest.mark.parametrize("words", [("flete",), ("fleet", "stpo"), ("queues", "lst"), ("probe", "redy")])
def test_an_unknown_command_is_refused_with_the_nearest_name(words: tuple[str, ...]) -> None:
    """An unknown command is refused with the nearest name, in every group and below `celery`."""
    known = {"flete": "fleet", "stpo": "stop", "lst": "list", "redy": "ready"}[words[-1]]
    for command in (main, celery):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 2
        assert f"id you mean '{known}'?" in done.stderr or f"id you mean one of these?\n    {known}" in done.stderr


@pytest.mark.parametrize("verb", ["stop", "stopwait"])
def test_stopping_what_never_ran_is_no_error(project: Path, verb: str) -> None:
    """With nothing to stop the verbs say so, need no broker, and make no folder."""
    done = fleet(project, verb)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "no node runs\n", "")
    assert not (project / "state").exists()


def test_a_pid_file_that_a_killed_worker_left_is_removed(project: Path) -> None:
    """`stop` says that the node was dead, and sends no signal."""
    run = project / "state" / "run" / "shop"
    run.mkdir(parents=True)
    (run / "lopri.pid").write_text("1\n")

    done = fleet(project, "stop")

    assert done.exit_code == 0
    assert "was dead; its pid file is removed" in done.stdout
    assert not (run / "lopri.pid").exists()


def test_status_without_nodes_needs_no_broker(project: Path) -> None:
    """Every wanted node is listed as stopped, in columns or as JSON, and the exit code is 1."""
    shown, parsed = fleet(project, "status"), fleet(project, "status", "lopri", "--json")

    assert (shown.exit_code, parsed.exit_code) == (1, 1)
    header, *lines, logs = shown.stdout.splitlines()
    assert header.startswith("queue ")
    assert logs == f"logs: {project}/state/log/shop"
    assert [line.split()[3] for line in lines] == ["stopped", "stopped"]
    (node,) = json.loads(parsed.stdout)["nodes"]
    assert (node["queue"], node["state"], node["pid"], node["slots"]) == ("lopri", "stopped", None, 32)


def test_patience_is_a_minute_or_what_the_longest_fleet_needs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for running tasks, and a little; for a queue that is gone from the settings the default."""
    (project / "broker.toml").write_text("[queues.default]\n[queues.lopri.fleet]\ndrain_seconds = 300\n")
    monkeypatch.setenv("BROKER_APP_CONFIG", "broker.toml")
    app = BrokerApp("shop", set_as_current=False)
    assert [patience_seconds(app, queues) for queues in ((), ["lopri"], ["default"], ["old"])] == [
        315,
        315,
        60,
        60,
    ]


@pytest.mark.parametrize("arguments", [["lopri"], ["lopri", "2", "--reset"], ["lopri", "-1"], ["lopri", "1001"]])
def test_scale_wants_a_number_or_a_reset(project: Path, arguments: list[str]) -> None:
    """Neither, both, and invalid numbers are refused before anything is done."""
    done = fleet(project, "scale", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert not (project / "state").exists()


def test_a_plan_is_made_without_a_broker(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes nothing; the values of a queue's variables are shown only when they are asked for."""
    monkeypatch.setenv("BROKER_APP_QUEUES__LOPRI__FLEET__ENVIRONMENT", '{"API_KEY": "it\'s s3cret"}')
    shown, parsed = fleet(project, "plan"), fleet(project, "plan", "lopri", "--json")
    asked = fleet(project, "plan", "lopri", "--variables")

    assert not (project / "state").exists()
    assert "s3cret" not in shown.stdout + parsed.stdout
    (planned,) = json.loads(parsed.stdout)["fleets"]
    assert (planned["queue"], planned["variables"]) == ("lopri", ["API_KEY"])
    assert "--concurrency=32" in planned["command"]
    assert shlex.split(asked.stdout) == ["export", "API_KEY=it's s3cret"]


def test_logs_that_are_not_there_are_one_line(project: Path) -> None:
    """`logs` without any log is one line with the cure, and exit code 1."""
    done = fleet(project, "logs", "lopri")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "found none; start the fleet" in done.stderr


def test_watching_ends_after_so_many_rounds(project: Path) -> None:
    """With --json each round is a line; what an operator stopped and scaled is part of it."""
    Overrides({"lopri": 2}, frozenset({"default"})).write(_made(project / "state" / "run" / "shop"))
    done = fleet(project, "status", "--watch", "--every", "0.1", "--count", "2", "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == second
    assert first["scaled"] == {"lopri": {"from": 1, "to": 2}}
    assert first["stopped"] == ["default"]
    assert len(first["nodes"]) == 3


def test_units_are_printed_or_written(project: Path) -> None:
    """Without a folder they are shown, with one they are files, and what to do next is said."""
    shown, written = fleet(project, "systemd"), fleet(project, "systemd", "--output", "units")
    assert "[Service]" in shown.stdout
    assert len(list((project / "units").iterdir())) == len(written.stdout.splitlines()) == 3
    assert "systemctl daemon-reload" in written.stderr


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
