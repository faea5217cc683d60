"""`broker-app metrics` as an operator runs it: next to real fleets, and when things are missing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from fleets import SCRIPTS, SETTINGS, Host, host
from proxy import TcpProxy
from served import SEND, SHOP, serving
from waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management
    from served import Served

SECONDS = 60.0


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str, management: Management) -> Iterator[Host]:
    """Return a host with its own broker and a project."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        made.write(f'management_url = "{management.url}"\n{SETTINGS}')
        (made.folder / "shop.py").write_text(SHOP)
        yield made


def metrics(machine: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``broker-app metrics`` to its end."""
    return machine.run(str(SCRIPTS / "broker-app"), "-A", "shop", "metrics", *arguments)


def check_page(served: Served) -> None:
    """Look at what the page is given of the host in the test below."""
    wait_until(lambda: served.value("queue_ready_messages", queue="lopri") == 0, SECONDS, "the broker's count")
    told = {queue["name"]: queue for queue in json.loads(served.get("/status.json"))["queues"]}
    assert [told["lopri"][key] for key in ("dead", "word", "ready")] == [2, "no objective", 0]
    assert told["lopri"]["fleet"] == {"wanted": 1, "up": 1, "slots": 3, "busy": 0}
    letters = json.loads(served.get("/dead-letters.json?queue=lopri"))["letters"]
    assert {letter["exception"] for letter in letters} == {"ValueError: -1", "ValueError: -2"}
    assert all("in pack" in letter["traceback"] for letter in letters)
    assert '<script type="module"' in served.get("/")
    assert served.get("/ready?node=default") == "default: ready, consumes default\n"


@pytest.mark.timeout(300)
def test_a_host_with_its_fleets(machine: Host) -> None:
    """All that the host did and holds is in one answer, over the death of a node and a restart of the server."""
    machine.start(app="shop")
    sent = machine.run(str(SCRIPTS / "python"), "-c", SEND)
    assert sent.returncode == 0, sent.stderr
    with serving(machine) as served:
        done = {"queue": "lopri", "task": "shop.pack"}
        wait_until(lambda: served.value("tasks_finished_total", **done) == 22, SECONDS, "22 tasks")
        failed = served.value("tasks_finished_total", outcome="failed", **done)
        assert (failed, served.value("tasks_published_total", **done)) == (2, 22)
        wait_until(lambda: served.value("dead_letters_total", queue="lopri") == 2, SECONDS, "their count")
        wait_until(lambda: served.value("task_waited_seconds_count", queue="lopri") == 22, SECONDS, "the waits")
        nodes = {labels["node"] for labels, up in served.samples("worker_up") if up}
        assert nodes == {f"{queue}@{socket.gethostname()}" for queue in ("default", "lopri")}
        assert [served.value(name, queue="lopri") for name in ("fleet_nodes_wanted", "fleet_nodes_up")] == [1, 1]
        assert [served.value("worker_slots", queue=queue) for queue in ("default", "lopri")] == [2, 3]
        wait_until(lambda: served.value("queue_dead_messages", queue="lopri") == 2, SECONDS, "the dead letters")
        wait_until(lambda: served.value("scheduled_messages", due="1 hour") == 1, SECONDS, "the scheduled task")
        assert served.value("broker_up") == served.value("broker_management_up") == 1
        assert (served.get("/live"), json.loads(served.get("/ready"))["broker"]) == ("live\n", True)

        check_page(served)

        os.kill(machine.workers("shop")["lopri"], signal.SIGKILL)
        wait_until(lambda: served.value("fleet_nodes_up", queue="lopri") == 0, SECONDS, "the dead node")
        assert served.value("tasks_finished_total", **done) == 22
        assert not [labels for labels, _ in served.samples("worker_slots") if labels["queue"] == "lopri"]
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(SECONDS) == 0
    machine.start(app="shop")
    with serving(machine) as served:
        assert served.value("tasks_finished_total", **done) == 22
        wait_until(lambda: served.value("fleet_nodes_up", queue="lopri") == 1, SECONDS, "the node to be up again")


@pytest.mark.timeout(180)
def test_a_broker_that_goes_and_comes(machine: Host) -> None:
    """While the broker cannot be reached every answer comes in time and says so; then it says that it is back."""
    with TcpProxy.to(machine.url) as way:
        through = Host(machine.folder, machine.state, way.url(machine.url))
        file = machine.folder / "broker.toml"
        file.write_text(
            f'management_url = "http://127.0.0.1:1"\n[metrics]\nbroker_cache_seconds = 0.1\n{SETTINGS}'
        )
        with serving(through) as served:
            wait_until(lambda: served.value("broker_up") == 1, SECONDS, "the broker")
            assert served.value("broker_management_up") == 0
            way.freeze()
            wait_until(lambda: served.value("broker_up") == 0, SECONDS, "the silence")
            assert served.samples("queue_ready_messages") == []
            assert served.value("fleet_nodes_wanted", queue="default") == 1
            assert json.loads(served.get("/ready"))["broker"] is False
            way.thaw()
            way.cut()
            wait_until(lambda: served.value("broker_up") == 1, SECONDS, "the broker again")


def test_what_cannot_be_served_is_said_in_one_line(machine: Host) -> None:
    """A port in use or an invalid certificate ends the command with one line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = metrics(machine, "serve", "--port", str(port))
    assert (said.returncode, said.stdout) == (1, "")
    assert re.fullmatch(rf"broker-app: metrics: expected 127\.0\.0\.1:{port} to be .*\n", said.stderr)
    machine.write('[metrics]\ncertificate = "nowhere.pem"\n[queues.default]\n')
    said = metrics(machine, "serve", "--port", "0")
    assert said.returncode == 1
    assert re.fullmatch(r"broker-app: metrics\.certificate: expected PEM files .*\n", said.stderr)


def test_a_state_folder_that_cannot_be_read(machine: Host) -> None:
    """The server answers, is not ready, and its log names the folder; the broker's metrics are served as usual."""
    machine.state.mkdir(parents=True, exist_ok=True)
    (machine.state / "metrics").write_text("in the folder's place")
    with serving(machine) as served:
        wait_until(lambda: served.value("broker_up") == 1, SECONDS, "the broker")
        with pytest.raises(HTTPError, match="503"):
            served.get("/ready")
        assert served.get("/live") == "live\n"
        served.process.terminate()
        said = served.process.communicate(timeout=SECONDS)[1]
    assert f"{machine.state / 'metrics' / 'shop'}: expected a folder that this user may read" in said


def test_damaged_files_and_strangers_in_the_folder(machine: Host) -> None:
    """`show` passes over files that are not metrics, counts and names them, and prints all others."""
    assert machine.run(str(SCRIPTS / "python"), "-c", SEND).returncode == 0
    folder = machine.state / "metrics" / "shop"
    (folder / "node-x.0.metrics").write_bytes(os.urandom(1_000))
    (folder / "node-y.0.metrics").mkdir()
    said = metrics(machine, "show")
    assert said.returncode == 0, said.stderr
    assert 'broker_app_metrics_files{state="unreadable"} 2.0\n' in said.stdout
    assert 'broker_app_tasks_published_total{queue="lopri",task="shop.pack"} 22.0\n' in said.stdout
    assert "node-x.0.metrics: expected a metrics file" in said.stderr


@pytest.mark.timeout(180)
def test_prometheus_finds_the_servers(machine: Host, tmp_path: Path) -> None:
    """The hosts where workers run are written for file discovery and served for HTTP discovery, alike."""
    said = metrics(machine, "targets")
    assert json.loads(said.stdout) == [{"targets": ["127.0.0.1:9480"], "labels": {"__scheme__": "http"}}]
    with (machine.folder / "broker.toml").open("r+") as file:
        settings = file.read()
        file.seek(0)
        file.write(settings.replace("[queues", '[metrics]\nhost = "0.0.0.0"\n[queues', 1))
    machine.start("lopri", app="shop")
    output = tmp_path / "targets.json"
    assert metrics(machine, "targets", "--output", str(output)).returncode == 0
    assert json.loads(output.read_text())[0]["targets"] == [f"{socket.gethostname()}:9480"]
    given = json.loads(metrics(machine, "targets", "worker1", "worker2").stdout)
    assert given[0]["targets"] == ["worker1:9480", "worker2:9480"]
    with serving(machine, "--host", "127.0.0.1") as served:
        (found,) = json.loads(served.get("/targets"))
        assert found["targets"] == [served.url.removeprefix("http://")]
    said = metrics(machine, "targets", "--output", str(tmp_path / "nowhere" / "targets.json"))
    assert said.returncode == 1
    assert "expected a file that can be written" in said.stderr
