"""`broker-app fleet stop`, `stopwait`, `restart` and `status`: tasks finish, and nothing is left unseen."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from fleets import SCRIPTS, SETTINGS, WAITING, Host, host
from waiting import wait_until

from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)

SHOP = """
import pathlib, time
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def hold(name):
    pathlib.Path(name + ".runs").touch()
    while not pathlib.Path(name + ".go").exists():
        time.sleep(0.05)
    pathlib.Path(name + ".done").touch()
"""


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker and a project whose task runs until a file ends it."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        (made.folder / "shop.py").write_text(SHOP)
        yield made


def hold(machine: Host, name: str) -> None:
    """Start a task on lopri and wait until it runs."""
    code = f"import shop; shop.hold.apply_async([{name!r}], queue='lopri')"
    assert machine.run(str(SCRIPTS / "python"), "-c", code).returncode == 0
    wait_until((machine.folder / f"{name}.runs").exists, 30, "the task to run")


def test_stop_returns_at_once_and_the_running_task_finishes(machine: Host) -> None:
    """After `stop` the node is shown as stopping until its task is done; a `start` waits for its end."""
    machine.write(SETTINGS + "drain_seconds = 120\n")
    machine.start("lopri", app="shop")
    hold(machine, "one")
    before = machine.workers("shop")["lopri"]

    said = machine.fleet("stop", app="shop")

    assert "lopri" in said.stdout
    assert "stopping" in said.stdout
    assert machine.status("lopri", app="shop", answer_seconds=2)["lopri"]["state"] == "stopping"
    start = (str(SCRIPTS / "broker-app"), "-A", "shop", "fleet", "start", "lopri", "--wait", "180")
    with (machine.folder / "start.log").open("w") as log, machine.popen(*start, output=log) as again:
        words = f"(pid {before}) is stopping and finishing its tasks: waiting up to"
        wait_until(lambda: words in (machine.folder / "start.log").read_text(), 60, "the start to wait")
        (machine.folder / "one.go").touch()
        assert again.wait(240) == 0
    assert (machine.folder / "one.done").exists()
    assert machine.workers("shop")["lopri"] != before


@pytest.mark.timeout(480)  # many commands
def test_broken_settings_keep_nobody_from_stopping(machine: Host) -> None:
    """`status`, `logs` and `stopwait` work and name the problem, even if the app cannot be loaded at all."""
    machine.start(app="shop")
    machine.write("[queues.lopri\nconcurrency = 'many'\n")

    shown = machine.fleet("status", "--json", app="shop")
    assert shown.returncode == 3
    assert "expected TOML" in shown.stderr
    assert {node["state"] for node in json.loads(shown.stdout)["nodes"]} == {"running"}
    assert "ready." in machine.fleet("logs", "lopri", app="shop").stdout
    stopped = machine.fleet("stopwait", "lopri", app="shop")
    assert (stopped.returncode, stopped.stdout.count("stopped")) == (0, 1), stopped.stderr

    (machine.folder / "shop.py").write_text("import nothing_of_that_name\n")
    stopped = machine.fleet("stopwait", app="shop")
    assert (stopped.returncode, stopped.stdout.count("stopped")) == (0, 1), stopped.stderr
    assert "nothing_of_that_name" in stopped.stderr
    assert not machine.workers("shop")


def test_stopwait_names_what_still_runs_and_kills_only_when_asked(machine: Host) -> None:
    """After its time `stopwait` fails with node and pid and kills nothing; with --kill the task goes back."""
    machine.start(app="shop")
    hold(machine, "two")
    lopri = machine.workers("shop")["lopri"]

    assert machine.fleet("stopwait", "default", app="shop").returncode == 0

    done = machine.fleet("stopwait", "--timeout", "1", app="shop")

    assert done.returncode == 1
    assert f"(pid {lopri})" in done.stderr
    assert "default@" not in done.stderr
    assert machine.workers("shop") == {"lopri": lopri}
    killed = machine.fleet("stopwait", "--timeout", "0", "--kill", app="shop")
    assert (killed.returncode, killed.stdout.partition(": ")[2]) == (0, f"killed, pid {lopri}\n")
    assert not list((machine.state / "run" / "shop").glob("*.pid"))
    (machine.folder / "two.go").touch()
    machine.start("lopri", app="shop")
    wait_until((machine.folder / "two.done").exists, 30, "the task to run again")


def test_kill_ends_the_processes_of_a_prefork_pool_too(machine: Host) -> None:
    """Nothing of a killed prefork worker runs on, not even the process that is in a task."""
    machine.write(SETTINGS + 'pool = "prefork"\n')
    machine.start("lopri", app="shop")
    hold(machine, "three")
    group = os.getpgid(machine.workers("shop")["lopri"])

    machine.fleet("stopwait", "--timeout", "0", "--kill", app="shop")

    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.killpg(group, 0), 10, "the end of the worker's processes")


def test_restart_replaces_the_nodes_after_their_tasks(machine: Host) -> None:
    """`restart` lets a task finish and then runs new processes with the settings of now."""
    machine.start("lopri", app="shop")
    hold(machine, "four")
    before = machine.workers("shop")
    machine.write(SETTINGS + "nodes = 2\n")

    with machine.popen(
        str(SCRIPTS / "broker-app"), "-A", "shop", "fleet", "restart", "lopri", "--wait", "180"
    ) as running:
        wait_until((machine.state / "run" / "shop" / "lopri.stopping").exists, 90, "the old node to be told")
        (machine.folder / "four.go").touch()
        _, errors = running.communicate(timeout=300)

    assert running.returncode == 0, errors
    assert (machine.folder / "four.done").exists()
    assert set(machine.workers("shop")) == {"lopri", "lopri+2"}
    assert machine.workers("shop")["lopri"] != before["lopri"]


def test_restart_does_not_stop_what_it_could_not_start_again(
    machine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a broker `restart` is refused and the old nodes run on; `status` says that no node was asked."""
    machine.start("lopri")
    before = machine.workers()
    url = {"BROKER_APP_BROKER_URL": "amqp://127.0.0.1:1//"}
    monkeypatch.setattr(Host, "environment", machine.environment | url)

    assert machine.fleet("restart").returncode == 4
    assert machine.workers() == before
    shown = machine.fleet("status", "lopri")
    assert shown.returncode == 4
    assert "failed to query the workers" in shown.stderr
    assert "secret" not in shown.stderr


def test_a_refused_start_leaves_a_queue_stopped(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `start` that is refused changes nothing: a queue that an operator stopped stays stopped."""
    machine.start("lopri")
    assert machine.fleet("stopwait", "lopri").returncode == 0
    nowhere = machine.environment | {"BROKER_APP_BROKER_URL": "amqp://127.0.0.1:1//"}
    with monkeypatch.context() as patch:
        patch.setattr(Host, "environment", nowhere)
        assert machine.fleet("start", "lopri").returncode == 4
    assert "lopri: stopped by an operator" in machine.fleet("status", "lopri").stdout


def test_nodes_that_the_settings_no_longer_want_are_named_and_stopped(machine: Host) -> None:
    """Names stay when the number changes; a surplus node, and one of a queue that is gone, is seen and stopped."""
    machine.write(SETTINGS + "nodes = 2\n[queues.old]\n[queues.idle.fleet]\nnodes = 0\n")
    said = machine.start()
    assert "idle: no node wanted" in said
    before = machine.workers()
    assert set(before) == {"default", "lopri", "lopri+2", "old"}
    machine.write(SETTINGS)

    again = machine.fleet("start")

    assert machine.workers() == before
    assert "fleet reload lopri" in again.stderr
    assert "fleet stop old" in again.stderr
    assert {name for name, node in machine.status().items() if not node["is_wanted"]} == {"lopri+2", "old"}
    assert machine.fleet("stopwait", "old").returncode == 0
    assert "old" not in machine.workers()
    assert machine.fleet("stopwait").returncode == 0
    assert not machine.workers()


def test_status_tells_what_each_node_does(machine: Host) -> None:
    """A running node shows its pid, pool, slots and active tasks; a missing one makes the exit code 1."""
    machine.start("lopri", app="shop")
    hold(machine, "five")

    nodes = machine.status(app="shop")

    lopri = nodes["lopri"]
    assert lopri["pid"] == machine.workers("shop")["lopri"]
    assert (lopri["state"], lopri["is_consuming"]) == ("running", True)
    assert (lopri["pool"], lopri["slots"], lopri["active"]) == ("threads", 3, 1)
    assert (nodes["default"]["state"], nodes["default"]["pid"]) == ("stopped", None)
    assert machine.fleet("status", "lopri", app="shop").returncode == 0
    assert machine.fleet("status", app="shop").returncode == 1
    (machine.folder / "five.go").touch()


def test_a_node_that_hangs_is_seen_and_restarted(machine: Host) -> None:
    """`status` and `stopwait` name a worker whose event loop hangs; `restart` does not wait for its tasks."""
    machine.write("heartbeat_seconds = 4\n" + SETTINGS)
    machine.start("lopri", app="shop")
    node = machine.status("lopri", app="shop")["lopri"]
    assert node["is_consuming"]
    assert node["heard_seconds"] < 30
    os.kill(node["pid"], signal.SIGSTOP)
    sign = machine.state / "run" / "shop" / "lopri.alive"
    wait_until(lambda: (found := Heartbeat.read(sign)) and found.is_hung(4), 60, "three heartbeats")
    hung = machine.status("lopri", app="shop", answer_seconds=2)["lopri"]
    assert (hung["state"], hung["pid"], hung["is_consuming"]) == ("running", node["pid"], False)
    assert "hangs: its loop has not turned for" in hung["note"]
    assert machine.fleet("status", "lopri", app="shop").returncode == 1
    stopped = machine.fleet("stopwait", "lopri", "--timeout", "1", app="shop")
    assert "hangs: its loop has not turned for" in stopped.stderr
    assert "finishing their tasks" not in stopped.stderr

    restarted = machine.fleet("restart", "lopri", "--timeout", "60", "--wait", "180", app="shop")

    assert restarted.returncode == 0, restarted.stderr
    assert machine.workers("shop")["lopri"] != node["pid"]
    assert f"(pid {node['pid']}) hangs" in restarted.stderr


def test_restart_does_not_stop_what_would_find_no_room(machine: Host) -> None:
    """On a disk without room for a new node's files `restart` is refused, and the old node runs on."""
    machine.start("lopri", app="shop")
    before = machine.workers("shop")
    command = f"ulimit -f 20; exec {SCRIPTS / 'broker-app'} -A shop fleet restart lopri"  # KiB of each file

    done = machine.run("bash", "-c", command)

    assert done.returncode == 1
    assert "expected a folder that this user may write, got: File too large" in done.stderr
    assert machine.workers("shop") == before
    assert not list(machine.state.rglob(".space*"))


def test_a_busy_fleet_ends_within_its_drain_seconds(machine: Host) -> None:
    """`stopwait` needs no --kill: at the deadline the nodes give back what runs and end by themselves."""
    machine.write(SETTINGS + "drain_seconds = 2\n")
    machine.start("lopri", app="shop")
    hold(machine, "six")

    done = machine.fleet("stopwait", "--timeout", "90", app="shop")

    assert (done.returncode, done.stdout.count("stopped")) == (0, 1), done.stderr
    (machine.folder / "six.runs").unlink()
    machine.start("lopri", app="shop")
    wait_until((machine.folder / "six.runs").exists, 30, "the task to run again")
    (machine.folder / "six.go").touch()


def test_ctrl_c_during_a_start_leaves_nodes_that_stop_finds(machine: Host) -> None:
    """A node that was started by an interrupted command and has no pid file yet is ended by `stopwait` too."""
    (machine.folder / "shop.py").write_text(WAITING)
    with machine.popen(str(SCRIPTS / "broker-app"), "-A", "shop", "fleet", "start", "--wait", "180") as command:
        wait_until(lambda: machine.workers("shop"), 60, "the first worker's process")
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=100)
    assert command.returncode == 130
    assert "started nodes keep running" in errors

    assert machine.fleet("stopwait", app="shop").returncode == 0
    assert not machine.workers("shop")
