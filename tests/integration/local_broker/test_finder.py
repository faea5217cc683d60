"""The broker of the demo and of the tests: how it is found or started."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import ConnectionForced
from brokers import Management, vhost_of, virtual_host
from ending import Process
from kombu.connection import Connection
from leftovers import RunMark
from waiting import wait_until

from broker_app.errors import BrokerNotFound
from broker_app.local_broker import BrokerSource, FoundBroker, PrivateNode, attach_broker, find_broker
from broker_app.local_broker.readiness import ask_version

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import pathlib, sys
from broker_app.local_broker import BrokerSource, find_broker
broker = find_broker(pathlib.Path(sys.argv[1]), ways=[BrokerSource.INSTALLED])
if sys.argv[2] == "keep":
    broker.keep()
print("ready", flush=True)
if sys.argv[2] == "crash":
    sys.stdin.read()
"""


def find_elsewhere(state_dir: Path, end: str) -> None:
    """Let another process find a broker, and end it: it crashes, or keeps the broker."""
    command = [sys.executable, "-c", SCRIPT, str(state_dir), end]
    process: Process[bytes] = Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        if end == "crash":
            child.send_signal(signal.SIGKILL)


def the_node(state_dir: Path) -> PrivateNode:
    """Return the one node in a state folder."""
    (folder,) = state_dir.glob("brokers/*/node")
    return PrivateNode.attach(folder)


def docker_client() -> Any:
    """Return a client of the Docker engine."""
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - only where Docker is

    return DockerClient().client


@pytest.fixture
def container_image(broker: FoundBroker) -> str:
    """Return the image of the run's broker."""
    if "Docker container" not in broker.how:
        pytest.skip("this run was asked to go without Docker, or its broker was given")
    return broker.how.rpartition("(")[2].rstrip(")")


def test_given_broker_is_left_alone(broker: FoundBroker, vhost_url: str, tmp_path: Path) -> None:
    """A broker that was given is used as it is, and goes on after the block."""
    with find_broker(tmp_path, url=vhost_url) as found:
        assert found.version == broker.version
    assert ask_version(vhost_url) == broker.version
    assert list(tmp_path.iterdir()) == []


def test_given_brokers_fail_over(vhost_url: str, tmp_path: Path) -> None:
    """Of several brokers that were given, one that answers is enough."""
    with find_broker(tmp_path, url=f"amqp://127.0.0.1:1//;{vhost_url}") as found:
        assert found.version == ask_version(vhost_url)


@pytest.mark.usefixtures("private_server")
def test_closed_by_another_process(tmp_path: Path) -> None:
    """A broker that another process has stopped is closed without an error."""
    with find_broker(tmp_path, ways=[BrokerSource.INSTALLED]) as found:
        found.keep()
        other = attach_broker(tmp_path)
        assert other is not None
        other.close()
    found.close()


@pytest.mark.usefixtures("private_server")
def test_private_node_ends_with_the_block(tmp_path: Path) -> None:
    """A node that was started for a block is gone after it, with its data and its password."""
    with find_broker(tmp_path, ways=[BrokerSource.INSTALLED]) as found:
        node = the_node(tmp_path)
        assert found.how == f"a private node in {node.folder}"
        assert ask_version(found.url) == found.version
    assert node.processes() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("private_server")
def test_crashed_run_is_cleared_away(tmp_path: Path) -> None:
    """The node of a run that was killed is ended by the next run, which says so in a line."""
    find_elsewhere(tmp_path, "crash")
    node = the_node(tmp_path)
    assert node.is_running
    heard: list[str] = []
    with pytest.raises(BrokerNotFound):
        find_broker(tmp_path, announce=heard.append, ways=())
    assert len(heard) == 1
    assert node.processes() == []


@pytest.mark.usefixtures("private_server")
def test_kept_broker_outlives_its_run(tmp_path: Path) -> None:
    """A kept broker goes on after its run, is found by the next one, and ends when that one closes it."""
    find_elsewhere(tmp_path, "keep")
    node = the_node(tmp_path)
    with pytest.raises(BrokerNotFound):
        find_broker(tmp_path, ways=())
    with attach_broker(tmp_path) or pytest.fail("there is no kept broker") as found:
        assert ask_version(found.url) == found.version
    assert node.is_running
    found.close()
    assert node.processes() == []
    assert attach_broker(tmp_path) is None


def test_container_is_published_on_loopback_only(container_image: str, tmp_path: Path) -> None:
    """A container's ports are on 127.0.0.1, its password is known only to us, and it is gone after the block."""
    with find_broker(tmp_path, image=container_image, ways=[BrokerSource.CONTAINER]) as found:
        (folder,) = tmp_path.glob("brokers/*")
        client = docker_client()
        ports = client.containers.get(folder.name).ports
        bindings = [binding for bound in ports.values() for binding in bound or []]
        assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
        with pytest.raises(BrokerNotFound, match="AccessRefused"):
            ask_version(f"amqp://guest:guest@127.0.0.1:{found.url.rpartition(':')[2]}")
        assert Management.of(found.url, found.management_url).get("overview")
    assert client.containers.list(all=True, filters={"name": folder.name}) == []
    client.close()


def test_missing_image_closes_the_way(container_image: str, tmp_path: Path) -> None:
    """An image that is neither here nor to be had is one line that names it, and closes this way only."""
    image = f"{container_image.partition(':')[0]}:no-such-tag"
    heard: list[str] = []
    with pytest.raises(BrokerNotFound):
        find_broker(tmp_path, image=image, announce=heard.append, ways=[BrokerSource.CONTAINER])
    assert heard[0] == f"pulling the image {image}"
    missing = f"the image {image} is missing and cannot be pulled"
    assert heard[1].startswith(f"skipping a container in Docker: {missing}")
    assert len(heard) == 2


def test_virtual_host_is_deleted(broker: FoundBroker, management: Management) -> None:
    """A virtual host of the tests goes, with all that is in it, even when the test in it fails."""
    made = []

    def fail_inside() -> None:
        with virtual_host(management, broker.url, "mine") as url:
            made.append(vhost_of(url))
            assert made[0] in [found["name"] for found in management.get("vhosts")]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert made[0] not in [found["name"] for found in management.get("vhosts")]


def test_management_closes_a_connection(fresh_vhost_url: str, management: Management) -> None:
    """The tests can see a connection and close it as an operator would."""
    vhost = vhost_of(fresh_vhost_url)
    with Connection(fresh_vhost_url) as connection:
        connection.connect()
        (seen,) = wait_until(lambda: management.connections(vhost), 30, "the connection in the statistics")
        management.close_connection(seen["name"])
        with pytest.raises(ConnectionForced):
            connection.drain_events(timeout=60)


def test_leftover_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a test run leaves behind is ended, and named with the test that started it."""
    with monkeypatch.context():
        mark = RunMark.set()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
            assert mark.end_leftovers(grace_seconds=0.1)
            assert child.wait(60) == -signal.SIGKILL
    (line,) = mark.found
    assert "time.sleep(60)" in line
    assert "test_leftover_process_is_found" in line
