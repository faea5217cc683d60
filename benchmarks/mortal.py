"""A broker that a benchmark may end, hold and start again; its URLs and its data stay the same."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from benchmarks.management import Management
from broker_app.local_broker.private_node import PrivateNode
from broker_app.local_broker.readiness import wait_for_management, wait_for_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

_START_SECONDS = 120.0
_COMMAND_SECONDS = 120
_USER = "benchmarks"


class MortalBroker(Protocol):
    """The operations on it."""

    def management(self) -> Management:
        """Return its management API, when that answers."""

    def start(self) -> None:
        """Start it, and return when it lets clients in."""

    def stop(self) -> None:
        """End it in order, as for an update."""

    def kill(self) -> None:
        """End it by SIGKILL."""

    def hold(self) -> None:
        """Stop it with SIGSTOP: connections stay, without answers."""

    def let_go(self) -> None:
        """Let it go on."""


@contextmanager
def mortal_broker(bench: Bench) -> Iterator[MortalBroker]:
    """Start a broker of the kind that the run has: another container of its image, or another private node.

    Raises:
        RuntimeError: The run's broker was given by its URL, so another one cannot be started.
    """
    if not bench.broker.is_started:
        raise RuntimeError("expected a broker that may be killed, got one that ran already; leave --broker out")
    with ExitStack() as stack:
        if bench.broker.image is None:
            node = _Node(PrivateNode(bench.folder / "mortal"))
            stack.callback(node.kill)
            node.start()
            yield node
        else:
            container = _Container(bench.broker.image)
            stack.callback(container.remove)
            container.run()
            yield container


class _Node:
    def __init__(self, node: PrivateNode) -> None:
        self._node = node

    def management(self) -> Management:
        return _answering(self._node.management_url, self._node.amqp_url)

    def start(self) -> None:
        self._node.start()

    def stop(self) -> None:
        self._node.stop()

    def kill(self) -> None:
        self._node.kill()

    def hold(self) -> None:
        for process in self._node.processes():
            os.kill(process.pid, signal.SIGSTOP)

    def let_go(self) -> None:
        for process in self._node.processes():
            os.kill(process.pid, signal.SIGCONT)


class _Container:
    def __init__(self, image: str) -> None:
        self._image = image
        self._name = f"benchmarks-{secrets.token_hex(6)}"
        self._password = secrets.token_urlsafe(16)
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self._port, self._management_port = one.getsockname()[1], two.getsockname()[1]

    @property
    def _amqp_url(self) -> str:
        return f"amqp://{_USER}:{self._password}@127.0.0.1:{self._port}//"

    def run(self) -> None:
        options = ["--name", self._name, "--ulimit", "nofile=16384:16384"]
        options += ["--publish", f"127.0.0.1:{self._port}:5672"]
        options += ["--publish", f"127.0.0.1:{self._management_port}:15672"]
        options += ["-e", f"RABBITMQ_DEFAULT_USER={_USER}", "-e", f"RABBITMQ_DEFAULT_PASS={self._password}"]
        _docker("run", "--detach", *options, self._image)
        self._wait()

    def management(self) -> Management:
        return _answering(f"http://127.0.0.1:{self._management_port}", self._amqp_url)

    def start(self) -> None:
        _docker("start", self._name)
        self._wait()

    def stop(self) -> None:
        _docker("stop", "--time", "60", self._name)

    def kill(self) -> None:
        _docker("kill", self._name)

    def hold(self) -> None:
        _docker("pause", self._name)

    def let_go(self) -> None:
        _docker("unpause", self._name)

    def remove(self) -> None:
        _docker("rm", "--force", "--volumes", self._name)

    def _wait(self) -> None:
        wait_for_version(self._amqp_url, _START_SECONDS, lambda: None)


def _answering(url: str, amqp_url: str) -> Management:
    wait_for_management(url, amqp_url, _START_SECONDS)
    return Management(url, amqp_url)


def _docker(*words: str) -> None:
    subprocess.run(
        ["docker", *words],  # noqa: S607 - from the PATH, as testcontainers
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=_COMMAND_SECONDS,
    )
