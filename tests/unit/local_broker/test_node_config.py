"""The configuration of a private node."""

from __future__ import annotations

import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from broker_app.errors import BrokerNotFound
from broker_app.local_broker.node_config import NodePorts, environment, find_server, free_ports, rabbitmq_conf

PORTS = NodePorts(amqp=1, management=2, distribution=3, epmd=4)


def make_server(folder: Path) -> Path:
    """Make the files of a RabbitMQ package: the real script next to the file that it reads."""
    folder.mkdir(parents=True)
    (folder / "rabbitmq-env").touch()
    script = folder / "rabbitmq-server"
    script.touch()
    return script


def test_free_ports_differ() -> None:
    """The ports of one node are four different ones, and free."""
    ports = free_ports()
    assert len(set(asdict(ports).values())) == 4
    assert ports.taken() == []


def test_taken_port() -> None:
    """A port that another process listens on is named, whatever the address."""
    with socket.create_server(("0.0.0.0", 0)) as other:  # noqa: S104 - the case in question
        port = other.getsockname()[1]
        assert replace(free_ports(), management=port).taken() == [port]


def test_conf_is_loopback_only() -> None:
    """Both listeners of rabbitmq.conf are on 127.0.0.1, and the user in it takes guest's place."""
    lines = rabbitmq_conf(PORTS, "somebody", "secret").splitlines()
    assert "listeners.tcp.local = 127.0.0.1:1" in lines
    assert "management.tcp.ip = 127.0.0.1" in lines
    assert "default_user = somebody" in lines


def test_environment_leaves_other_nodes_alone(tmp_path: Path) -> None:
    """Nothing that steers the caller's own RabbitMQ reaches the private node; the rest of the environment does."""
    caller = {"RABBITMQ_NODE_PORT": "5672", "ERL_LIBS": "/x", "HOME": "/root", "LANG": "C", "detached": "1"}
    variables = environment(caller, tmp_path, Path("/opt/rabbit/sbin/rabbitmq-server"), PORTS, "mark")
    assert variables.keys().isdisjoint({"RABBITMQ_NODE_PORT", "ERL_LIBS", "detached"})
    assert variables["LANG"] == "C"
    assert variables["HOME"] == str(tmp_path / "home")
    assert variables["ERL_EPMD_ADDRESS"] == "127.0.0.1"


def test_server_behind_the_wrapper(tmp_path: Path) -> None:
    """If the PATH leads to a package's wrapper, which changes the user, the real script is used."""
    real = make_server(tmp_path / "lib" / "sbin")
    shown = tmp_path / "lib" / "bin"
    shown.mkdir()
    (shown / "rabbitmq-server").symlink_to(real)
    (shown / "wrapper").touch()
    on_path = tmp_path / "sbin"
    on_path.mkdir()
    (on_path / "rabbitmq-server").symlink_to(shown / "wrapper")
    assert find_server(str(on_path), ()) == real


def test_server_in_a_usual_folder(tmp_path: Path) -> None:
    """A server off the PATH is found where the packages put it; one on the PATH comes first."""
    usual = make_server(tmp_path / "usual")
    assert find_server("", [usual.parent]) == usual
    own = make_server(tmp_path / "own")
    assert find_server(f"/nowhere:{own.parent}", [usual.parent]) == own


def test_missing_server_is_one_line(tmp_path: Path) -> None:
    """A machine without rabbitmq-server gets one line that says what to install."""
    with pytest.raises(BrokerNotFound, match=r"install the package rabbitmq-server$") as caught:
        find_server(str(tmp_path), ())
    assert "\n" not in str(caught.value)
