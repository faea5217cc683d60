"""A broker of a test's own that may be killed and started again, of the same version as the run's."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from containers import container_at, docker
from ports import free_port
from rabbitmqctl import port_of

from broker_app.local_broker.private_node import PrivateNode
from broker_app.local_broker.readiness import wait_for_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

_START_SECONDS = 150.0


class MortalBroker(Protocol):
    """The operations of a test on it; url, port and data stay the same over kill and start."""

    @property
    def amqp_url(self) -> str:
        """Its URL, with the password."""

    def kill(self) -> None:
        """End it as the out-of-memory killer would: SIGKILL."""

    def start(self) -> object:
        """Start it, and return when it answers."""


@contextmanager
def mortal_broker(broker: FoundBroker, folder: Path) -> Iterator[MortalBroker]:
    """Start a container of the image of the run's broker, or a private node if that is no container."""
    image = container_at(port_of(broker.url), "{{.Image}}")
    if not image:
        with PrivateNode(folder) as node:
            yield node
        return
    container = _Container(image)
    try:
        container.run()
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.name)


class _Container:
    def __init__(self, image: str) -> None:
        self.name = f"broker-app-mortal-{secrets.token_hex(6)}"
        self._image = image
        self._password = secrets.token_urlsafe(16)
        self._port = free_port()

    @property
    def amqp_url(self) -> str:
        return f"amqp://mortal:{self._password}@127.0.0.1:{self._port}//"

    def run(self) -> None:
        user = ("-e", "RABBITMQ_DEFAULT_USER=mortal", "-e", f"RABBITMQ_DEFAULT_PASS={self._password}")
        place = (
            "--name",
            self.name,
            "--publish",
            f"127.0.0.1:{self._port}:5672",
            "--ulimit",
            "nofile=16384:16384",
        )
        docker("run", "--detach", *place, *user, self._image)
        wait_for_version(self.amqp_url, _START_SECONDS, lambda: None)

    def kill(self) -> None:
        docker("kill", self.name)

    def start(self) -> None:
        docker("start", self.name)
        wait_for_version(self.amqp_url, _START_SECONDS, lambda: None)
