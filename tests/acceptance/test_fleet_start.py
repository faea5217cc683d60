"""`broker-app fleet start`: which nodes come up, what is refused, and the message when a node dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ending import Process
from fleets import SCRIPTS, WAITING, Host, host
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(240)

SHOP = """
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def where(who):
    import os
    return [who, os.getcwd()]
"""
CALL = """
import json, shop
print(json.dumps([shop.where.apply_async([q], queue=q).get(timeout=90) for q in ("default", "lopri")]))
"""
DYING = """
import os
from broker_app import BrokerApp
from celery.signals import celeryd_after_setup
from celery.utils.log import get_logger
app = BrokerApp("shop")

@celeryd_after_setup.connect
def die(sender, **_kwargs):
    if sender.startswith("lopri@") and not os.path.exists("is_repaired"):
        get_logger("celery").error("the disk of lopri is missing")
        os._exit(3)
"""


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        yield made


def command_line(pid: int) -> str:
    """Return a process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_start_serves_every_queue_of_a_users_own_project(machine: Host) -> None:
    """After `start` each queue's task of a project in the current folder runs, in that folder."""
    (machine.folder / "shop.py").write_text(SHOP)

    machine.start(app="shop")

    done = machine.run(str(SCRIPTS / "python"), "-c", CALL)
    where = f'"{machine.folder}"'
    assert done.stdout.strip() == f'[["default", {where}], ["lopri", {where}]]', done.stderr


def test_start_leaves_no_trace_outside_the_state_folder_and_no_password_on_a_command_line(machine: Host) -> None:
    """Pid files and logs are in the state folder, which is its owner's only; `ps` shows no broker URL."""
    before = {file.name for file in machine.folder.iterdir()}

    machine.start("lopri")

    assert {file.name for file in machine.folder.iterdir()} - before <= {"state"}
    modes = {file.relative_to(machine.state): file.stat().st_mode & 0o077 for file in machine.state.rglob("*")}
    assert not {str(file): mode for file, mode in modes.items() if mode}
    assert machine.state.stat().st_mode & 0o777 == 0o700
    assert (machine.state / "run" / "broker_app" / "lopri.pid").read_text() == f"{machine.workers()['lopri']}\n"
    assert "ready" in (machine.state / "log" / "broker_app" / "lopri.log").read_text()
    assert "amqp" not in command_line(machine.workers()["lopri"])


def test_second_start_leaves_the_running_nodes_alone(machine: Host) -> None:
    """A node that runs is named with its pid and not started twice; only what is missing is started."""
    machine.start("lopri")
    first = machine.workers()

    said = machine.start()

    assert f"already running, pid {first['lopri']}" in said
    assert machine.workers()["lopri"] == first["lopri"]
    assert set(machine.workers()) == {"default", "lopri"}
    assert all(node["is_consuming"] for node in machine.status().values())


def test_a_node_that_dies_is_named_with_its_last_words_and_the_others_stay_up(machine: Host) -> None:
    """`start` fails when a node ends while it starts and shows its log; the next start brings up that one only."""
    (machine.folder / "shop.py").write_text(DYING)

    done = machine.fleet("start", "--wait", "180", app="shop")

    assert done.returncode == 1
    assert "lopri@" in done.stderr
    assert "it exited during startup" in done.stderr
    assert "the disk of lopri is missing" in done.stderr
    assert "default@" in done.stdout
    default = machine.workers("shop")["default"]
    (machine.folder / "is_repaired").touch()
    said = machine.start(app="shop")
    assert f"already running, pid {default}" in said
    assert "started" in said


def test_a_node_without_an_answer_in_time_is_named_and_left_running(machine: Host) -> None:
    """A node that lives but does not consume in time makes `start` fail, with its pid."""
    (machine.folder / "shop.py").write_text(DYING.replace("os._exit(3)", "import time; time.sleep(60)"))

    done = machine.fleet("start", "lopri", "--wait", "1", app="shop")

    assert done.returncode == 1
    assert f"did not answer within 1 s (pid {machine.workers('shop')['lopri']} is left running)" in done.stderr
    assert machine.status("lopri", app="shop", answer_seconds=2)["lopri"]["state"] == "starting"


def test_modules_that_cannot_be_imported_are_refused_before_anything_starts(machine: Host) -> None:
    """A faulty include is one line from `start`; a detached worker would die without a word."""
    (machine.folder / "shop.py").write_text(SHOP.replace('"shop"', '"shop", include=["shop_tasks"]'))

    done = machine.fleet("start", app="shop")

    assert done.returncode == 1
    assert "No module named 'shop_tasks'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not machine.workers("shop")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"BROKER_APP_BROKER_URL": "amqp://u:secret@127.0.0.1:1//"}, 4, "no AMQP broker answers"),
        ({"BROKER_APP_STATE_DIR": "broker.toml"}, 1, "expected a folder that this user may write"),
        ({"BROKER_APP_STATE_DIR": "state%n"}, 1, "without '%'"),
        ({"BROKER_APP_QUEUES__LOPRI__FLEET__POOL": "greenlets"}, 3, "QUEUES__LOPRI__FLEET__POOL"),
    ],
    ids=["no broker", "state folder not writable", "state folder with a pattern", "bad settings"],
)
def test_bad_surroundings_are_one_line_and_nothing_is_started(
    machine: Host, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], code: int, words: str
) -> None:
    """Each is refused with its own exit code before a worker starts, and without a secret in the message."""
    monkeypatch.setattr(Host, "environment", machine.environment | change)

    done = machine.fleet("start")

    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr
    assert not machine.workers()


def test_a_node_name_that_a_worker_from_elsewhere_has_is_refused(machine: Host, tmp_path: Path) -> None:
    """Two workers of one name would lock each other out: the second fleet is refused, with the first one's pid."""
    machine.start("lopri")
    with host(tmp_path / "other", machine.url) as other:
        done = other.fleet("start")

        assert done.returncode == 1
        assert f"a worker of this name (pid {machine.workers()['lopri']}) already answers" in done.stderr
        assert not other.workers()


def test_a_pid_file_of_a_killed_worker_is_no_obstacle(machine: Host) -> None:
    """After SIGKILL `status` says dead, and `start` starts a node although another program has its pid now."""
    machine.start("lopri")
    os.kill(machine.workers()["lopri"], signal.SIGKILL)
    wait_until(lambda: not machine.workers(), 10, "the end of the worker")
    assert machine.status("lopri")["lopri"]["state"] == "dead"
    with Process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (machine.state / "run" / "broker_app" / "lopri.pid").write_text(f"{other.pid}\n")

        machine.start("lopri")
        machine.fleet("stopwait")

        assert other.poll() is None
        other.kill()


def test_a_second_fleet_command_beside_the_first_is_refused(machine: Host) -> None:
    """While a `start` is at work another command says so, with its pid, and does nothing."""
    (machine.folder / "shop.py").write_text(WAITING)
    lock = machine.state / "run" / "shop" / "fleet.lock"
    start = ("-A", "shop", "fleet", "start", "lopri", "--wait", "180")
    with machine.popen(str(SCRIPTS / "broker-app"), *start) as first:
        wait_until(lambda: lock.exists() and lock.read_text(), 60, "the first command's lock")

        second = machine.fleet("start", app="shop")

        (machine.folder / "go").touch()
        assert first.communicate(timeout=240)[1] == ""
    assert second.returncode == 1
    assert f"another fleet command (pid {first.pid}) is at work" in second.stderr


def test_paths_with_blanks_and_quotes_are_no_obstacle(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Project, state folder and interpreter may lie in a folder whose name a shell would split."""
    folder = tmp_path / "Bob's projects"
    folder.mkdir()
    (folder / "venv").symlink_to(SCRIPTS.parent)
    with host(folder / "shop", fresh_vhost_url) as machine:
        before = {file.name for file in machine.folder.iterdir()}
        python = str(folder / "venv" / "bin" / "python")
        call = "import sys; from broker_app.cli import main; sys.exit(main())"

        done = machine.run(python, "-c", call, "fleet", "start", "lopri", "--wait", "180")

        assert done.returncode == 0, done.stderr
        assert python in command_line(machine.workers()["lopri"])
        assert {file.name for file in machine.folder.iterdir()} - before <= {"state"}
        assert machine.status("lopri")["lopri"]["is_consuming"]
        assert "stopped" in machine.fleet("stopwait").stdout
