"""A private RabbitMQ node, started for real."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from brokers import Management
from ending import END_SECONDS
from kombu.connection import Connection

from broker_app.errors import BrokerNotFound, PrivateNodeError
from broker_app.local_broker import PrivateNode
from broker_app.local_broker.node_config import free_ports
from broker_app.local_broker.readiness import ask_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.local_broker.node_config import NodePorts
    from broker_app.local_broker.process import ProcessHandle

pytestmark = pytest.mark.usefixtures("private_server")

QUEUE = "durable"


@pytest.fixture(scope="module")
def node(private_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """Return a node that runs; a test that ends it starts it again. Its folder's name has a space."""
    del private_server
    with PrivateNode(tmp_path_factory.mktemp("a node") / "folder") as node:
        yield node
        node.kill()  # quicker than in order


def put_durable_message(url: str) -> None:
    """Leave one persistent, confirmed message in a durable queue."""
    confirmed = Connection(url, transport_options={"confirm_publish": True})
    with confirmed as connection, closing(connection.SimpleQueue(QUEUE)) as queue:
        queue.put("still here")


def take_message(url: str) -> object:
    """Take it."""
    with Connection(url) as connection, closing(connection.SimpleQueue(QUEUE)) as queue:
        message = queue.get(timeout=60)
        message.ack()
        return message.payload


def listening_addresses(process: ProcessHandle) -> set[str]:
    """Return the addresses, as /proc/net/tcp writes them, that a process listens on."""
    links = (str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir())
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:")}
    rows = [
        row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    listening = "0A"  # TCP_LISTEN
    return {row[1].partition(":")[0] for row in rows if row[3] == listening and row[9] in inodes}


def test_answers(node: PrivateNode) -> None:
    """A started node lets its user in, by AMQP and by the management API."""
    assert ask_version(node.amqp_url) == node.version
    overview = Management.of(node.amqp_url, node.management_url).get("overview")
    assert overview["rabbitmq_version"] == node.version


def test_listens_on_loopback_only(node: PrivateNode) -> None:
    """No other machine reaches anything of the node: AMQP, management, or Erlang's own ports."""
    addresses = set().union(*(listening_addresses(process) for process in node.processes()))
    loopback = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1, which epmd adds
    assert addresses
    assert addresses <= loopback


def test_no_guest(node: PrivateNode) -> None:
    """The user that everybody knows does not exist."""
    with pytest.raises(BrokerNotFound, match="AccessRefused"):
        ask_version(f"amqp://guest:guest@127.0.0.1:{node.ports.amqp}//")


def test_password_is_private(node: PrivateNode) -> None:
    """Other users of the machine can read neither the password nor the Erlang cookie."""
    files = ["node.json", "rabbitmq.conf", "home/.erlang.cookie"]
    assert [(node.folder / name).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for name in files] == [0, 0, 0]
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700


def test_second_start_is_refused(node: PrivateNode) -> None:
    """A folder in which a node runs is left alone."""
    with pytest.raises(PrivateNodeError, match="is already running here"):
        PrivateNode(node.folder).start()
    assert ask_version(node.amqp_url)


def test_fork_does_not_stop_it(node: PrivateNode) -> None:
    """A forked process that leaves the block of its parent does not end the parent's node."""
    pid = os.fork()
    if pid == 0:
        node.__exit__(None, None, None)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert node.is_running


def test_kill_and_restart_keep_a_message(node: PrivateNode) -> None:
    """After a kill the node comes back at the same URL, with a message that it had confirmed."""
    url = node.amqp_url
    put_durable_message(url)
    node.kill()
    assert node.processes() == []
    with pytest.raises(BrokerNotFound):
        ask_version(url)
    node.restart()
    assert node.amqp_url == url
    assert take_message(url) == "still here"


def test_stop_from_another_process(node: PrivateNode) -> None:
    """A process that knows only the folder stops the node in order, to its last process; it can start again."""
    put_durable_message(node.amqp_url)
    script = (
        "import pathlib, sys; from broker_app.local_broker import *; PrivateNode.attach(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", f"{script}.stop()", node.folder], check=True, timeout=END_SECONDS)
    assert node.processes() == []
    assert "SIGTERM received - shutting down" in "".join(
        path.read_text() for path in node.folder.glob("log/*.log")
    )
    PrivateNode(node.folder).start()
    assert node.is_running
    assert take_message(node.amqp_url) == "still here"


def test_attach_to_nothing(tmp_path: Path) -> None:
    """A folder in which no node was started is one clear line."""
    with pytest.raises(PrivateNodeError, match=r"node\.json: expected the record of a private node"):
        PrivateNode.attach(tmp_path)


def test_unused_node_says_so(tmp_path: Path) -> None:
    """A node that was never started has no URL, and says what to do."""
    with pytest.raises(PrivateNodeError, match=r"call start\(\) first"):
        _ = PrivateNode(tmp_path).amqp_url


@pytest.mark.parametrize("taken", ["amqp", "distribution"])
def test_port_taken_in_between(tmp_path: Path, taken: str) -> None:
    """A port that another process takes between choice and start costs an attempt, not the node."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        choices = iter([replace(free_ports(), **{taken: port}), free_ports()])

        def choose() -> NodePorts:
            return next(choices)

        node = PrivateNode(tmp_path / "node", choose_ports=choose)
        try:
            node.start()
            assert port not in asdict(node.ports).values()
            assert ask_version(node.amqp_url)
        finally:
            node.kill()


def test_failed_start_is_one_line(tmp_path: Path) -> None:
    """A node that does not come up in time is one line with the end of its log, and leaves nothing running."""
    node = PrivateNode(tmp_path / "node")
    with pytest.raises(PrivateNodeError, match="its log: ") as caught:
        node.start(deadline_seconds=1)
    assert "\n" not in str(caught.value)
    assert node.processes() == []
