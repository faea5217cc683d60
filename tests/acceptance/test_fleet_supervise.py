"""`broker-app fleet supervise`: what dies is started again, and nothing that an operator decided is undone."""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fleets import SCRIPTS, SETTINGS, Host, host
from waiting import wait_until

from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

SHOP = """
import ctypes, pathlib, time
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def hang_once(name):
    if pathlib.Path(name + ".hangs").exists():
        pathlib.Path(name + ".done").touch()
        return
    pathlib.Path(name + ".hangs").touch()
    ctypes.PyDLL(None).sleep(10_000)

@app.task
def hold(name):
    pathlib.Path(name + ".runs").touch()
    while not pathlib.Path(name + ".go").exists():
        time.sleep(0.05)
    pathlib.Path(name + ".done").touch()
"""
HANGING = """
heartbeat_seconds = 4
[queues.default.fleet]
pool = "prefork"
concurrency = 1
[queues.lopri.fleet]
pool = "threads"
concurrency = 2
"""
STALLING = """
import pathlib, time
from celery.signals import celeryd_after_setup

@celeryd_after_setup.connect
def stall(sender, **_):
    while sender.startswith("default@") and not pathlib.Path("default.go").exists():
        time.sleep(0.05)
"""
PATIENT = """
import sys
from broker_app.cli import main
from broker_app.fleet import supervisor
supervisor.DEFAULT_WAIT_SECONDS = 3600.0
sys.exit(main())
"""
UP_SECONDS = 300.0


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker and a project whose task runs until a file ends it."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        (made.folder / "shop.py").write_text(SHOP)
        yield made


@contextmanager
def supervisor(
    machine: Host, *queues: str, program: tuple[str, ...] = (str(SCRIPTS / "broker-app"),)
) -> Iterator[subprocess.Popen[str]]:
    """Run a supervisor for the length of a block; its log is ``supervisor.log``."""
    command = (*program, "-A", "shop", "fleet", "supervise", *queues)
    with (machine.folder / "supervisor.log").open("w") as log, machine.popen(*command, output=log) as process:
        try:
            yield process
        finally:
            process.kill()


def said(machine: Host) -> str:
    """Return the supervisor's log."""
    return (machine.folder / "supervisor.log").read_text()


def both_starts_are_told(machine: Host) -> bool:
    """Return whether the supervisor knows the outcome of each node's start; on a busy machine one may be late."""
    return all(re.search(rf"{stem}@\S+(: started| is not up)", said(machine)) for stem in ("lopri", "default"))


def wait_for_node(machine: Host, stem: str, other_than: int = 0) -> int:
    """Wait until a node consumes whose process is another one, and return its pid."""

    def pid() -> int:
        found = machine.consuming("shop").get(stem, 0)
        return found if found != other_than else 0

    return wait_until(pid, UP_SECONDS, f"{stem} to consume")


def consuming(machine: Host) -> dict[str, int]:
    """Return the pids of both nodes if they run and consume, else nothing."""
    run, workers = machine.state / "run" / "shop", machine.workers("shop")
    signs = {stem: Heartbeat.read(run / f"{stem}.alive") for stem in workers}
    consumers = {stem: sign.pid for stem, sign in signs.items() if sign and sign.queues and sign.is_fresh(4)}
    return workers if workers == consumers and len(workers) == 2 else {}


@pytest.mark.timeout(500)
def test_what_dies_is_started_again_and_what_was_stopped_is_not(machine: Host) -> None:
    """A killed node comes back, told and counted; a stop holds; a second supervisor is refused; SIGTERM ends."""
    with supervisor(machine) as process:
        first = wait_for_node(machine, "lopri")
        wait_for_node(machine, "default")
        wait_until(lambda: both_starts_are_told(machine), UP_SECONDS, "the supervisor to have seen both")

        second = machine.fleet("supervise", "lopri", app="shop")
        assert second.returncode == 1
        assert f"expected no other supervisor of this fleet, pid {process.pid} is one" in second.stderr
        assert len(second.stderr.splitlines()) == 1

        os.kill(first, signal.SIGKILL)
        wait_for_node(machine, "lopri", other_than=first)
        wait_until(lambda: "started again, pid" in said(machine), UP_SECONDS, "the restart to be told")
        assert re.search(rf"\(pid {first}\) has died; it is started again in \d+ s", said(machine))
        shown = machine.run(str(SCRIPTS / "broker-app"), "-A", "shop", "metrics", "show")
        assert 'broker_app_fleet_restarts_total{queue="lopri"} 1' in shown.stdout
        assert 'broker_app_fleet_restarts_total{queue="default"} 0' in shown.stdout

        assert machine.fleet("stopwait", "default", app="shop").returncode == 0
        os.kill(machine.workers("shop")["lopri"], signal.SIGKILL)
        wait_until(lambda: said(machine).count("started again, pid") == 2, UP_SECONDS, "the next restart")
        assert set(machine.workers("shop")) == {"lopri"}
        assert "default: stopped by an operator" in machine.fleet("status", app="shop").stdout

        process.terminate()
        assert process.wait(UP_SECONDS) == 0, said(machine)
    assert not machine.workers("shop")


@pytest.mark.timeout(500)
def test_a_supervisor_takes_up_settings_and_lets_tasks_finish(machine: Host) -> None:
    """SIGHUP reloads, wrong settings change nothing, and at SIGTERM the running task ends before the node."""
    with supervisor(machine, "lopri") as process:
        first = wait_for_node(machine, "lopri")
        machine.write("[queues.lopri.fleet]\nnodes = -1\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "continuing with the previous ones" in said(machine), UP_SECONDS, "the refusal")
        assert machine.workers("shop") == {"lopri": first}

        machine.write(SETTINGS + "nodes = 2\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: said(machine).count("supervising lopri") == 2, UP_SECONDS, "the reload")
        assert machine.workers("shop")["lopri"] == first
        other = wait_for_node(machine, "lopri+2")
        os.kill(other, signal.SIGKILL)
        wait_for_node(machine, "lopri+2", other_than=other)

        code = "import shop; shop.hold.apply_async(['one'], queue='lopri')"
        assert machine.run(str(SCRIPTS / "python"), "-c", code).returncode == 0
        wait_until((machine.folder / "one.runs").exists, UP_SECONDS, "the task to run")
        process.terminate()
        wait_until(lambda: "to finish their tasks" in said(machine), UP_SECONDS, "the supervisor to be told")
        (machine.folder / "one.go").touch()
        assert process.wait(UP_SECONDS) == 0, said(machine)
    assert (machine.folder / "one.done").exists()
    assert not machine.workers("shop")


def test_a_supervisor_waits_for_a_broker_that_is_away(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, retries at growing intervals, shows no password, and exits with 0 on Ctrl-C."""
    url = {"BROKER_APP_BROKER_URL": "amqp://u:secret@127.0.0.1:1//"}
    monkeypatch.setattr(Host, "environment", machine.environment | url)
    with supervisor(machine, "lopri") as process:
        wait_until(lambda: "tried again in 2 s" in said(machine), UP_SECONDS, "the second try")
        process.send_signal(signal.SIGINT)
        assert process.wait(UP_SECONDS) == 0, said(machine)
    assert "no AMQP broker answers" in said(machine)
    assert "secret" not in said(machine)
    assert not machine.workers("shop")


@pytest.mark.timeout(500)
def test_a_node_that_does_not_come_up_delays_no_other(machine: Host) -> None:
    """While one node may take an hour to come up, another that died is started again; then the first is up."""
    (machine.folder / "shop.py").write_text(SHOP + STALLING)
    with supervisor(machine, program=(str(SCRIPTS / "python"), "-c", PATIENT)) as process:
        wait_until(lambda: re.search(r"lopri@\S+: started", said(machine)), UP_SECONDS, "lopri to be up")
        first = machine.workers("shop")
        os.kill(first["lopri"], signal.SIGKILL)
        wait_until(lambda: re.search(r"lopri@\S+: started again", said(machine)), UP_SECONDS, "its restart")
        assert machine.workers("shop")["default"] == first["default"]
        assert "default@" not in said(machine)

        (machine.folder / "default.go").touch()
        wait_until(lambda: re.search(r"default@\S+: started, pid", said(machine)), UP_SECONDS, "default to be up")
        process.terminate()
        assert process.wait(UP_SECONDS) == 0, said(machine)
    assert not machine.workers("shop")


@pytest.mark.timeout(900)
def test_a_node_that_hangs_is_killed_and_started_again(machine: Host) -> None:
    """A stopped prefork node, and a threads node whose task holds the GIL: logged, counted, back at work."""
    machine.write(HANGING)
    with supervisor(machine) as process:
        first = wait_until(lambda: consuming(machine), UP_SECONDS, "both nodes")
        code = "import shop; shop.hang_once.apply_async(['lopri'], queue='lopri')"
        assert machine.run(str(SCRIPTS / "python"), "-c", code).returncode == 0
        os.kill(first["default"], signal.SIGSTOP)
        for stem, pid in first.items():
            words = rf"{stem}@\S+ \(pid {pid}\) hangs: its loop has not turned for \d+ s; it was killed"
            wait_until(lambda words=words: re.search(words, said(machine)), UP_SECONDS, f"the end of {stem}")
        again = wait_until(lambda: consuming(machine), UP_SECONDS, "both nodes to come back")
        assert not set(again.values()) & set(first.values())
        wait_until((machine.folder / "lopri.done").exists, UP_SECONDS, "the task to run again")
        shown = machine.run(str(SCRIPTS / "broker-app"), "-A", "shop", "metrics", "show").stdout
        for queue in first:
            assert f'broker_app_fleet_hung_total{{queue="{queue}"}} 1' in shown
        process.terminate()
        assert process.wait(UP_SECONDS) == 0, said(machine)
