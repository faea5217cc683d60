"""A broker in Docker, started with testcontainers, an optional dependency; import this module only if needed."""

from __future__ import annotations

import secrets
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException, ImageNotFound, NotFound
from testcontainers.community.rabbitmq import RabbitMqContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.docker_client import DockerClient

from broker_app.errors import BrokerNotFound
from broker_app.local_broker.node_config import FRESH_STATISTICS, LOOPBACK
from broker_app.local_broker.readiness import wait_for_management, wait_for_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENGINE_SECONDS = 60
_START_SECONDS = 60.0
_MANAGEMENT_SECONDS = 5.0
_AMQP_PORT = 5672
_MANAGEMENT_PORT = 15672
_LOG_LINES = 8
_OPEN_FILES = 16_384
"""Limit of open files. Erlang allocates a table of this size, gigabytes on an engine that sets no limit. Lowering
the limit needs no privileges."""


@dataclass(frozen=True)
class RunningContainer:
    """A running broker.

    Attributes:
        amqp_url: The URL of its virtual host ``/``, with the password.
        management_url: The URL of its management API; None if the image lacks the plugin.
        version: RabbitMQ's version, such as ``4.3.6``.
    """

    amqp_url: str = field(repr=False)
    management_url: str | None
    version: str


def start_container(image: str, name: str, announce: Callable[[str], None]) -> RunningContainer:
    """Start a broker in Docker and wait until it responds.

    Args:
        image: The image; pulled if it is missing.
        name: The container's name, for `remove_container`.
        announce: Called with one sentence before each slow step.

    Raises:
        BrokerNotFound: No local engine responds, the image cannot be pulled, or the broker does not start.
    """
    ensure_image(image, announce)
    container = _Container(image, name)
    try:
        with closing(container.get_docker_client().client), _without_reaper():
            container.start()
            return RunningContainer(container.amqp_url, container.management_url, container.version)
    except (OSError, DockerException) as error:
        remove_container(name)
        raise BrokerNotFound(f"{image}: Docker could not start it ({_first_line(error)})") from error
    except BaseException:  # even KeyboardInterrupt must leave nothing running
        remove_container(name)
        raise


def ensure_image(image: str, announce: Callable[[str], None]) -> None:
    """Pull the image if the engine does not have it.

    Raises:
        BrokerNotFound: No local engine responds, or the image cannot be pulled.
    """
    with _engine() as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            announce(f"pulling the image {image}")
        else:
            return
        try:
            client.images.pull(image)
        except (OSError, DockerException) as error:
            why = _first_line(error)
            raise BrokerNotFound(f"the image {image} is missing and cannot be pulled ({why})") from error


def remove_container(name: str) -> None:
    """Remove the container and its data, if it exists.

    Raises:
        BrokerNotFound: No engine responds.
    """
    with _engine() as client, suppress(NotFound):
        client.containers.get(name).remove(force=True, v=True)


@contextmanager
def _engine() -> Iterator[Any]:
    """Open a client of the local engine; ports that a remote engine publishes on its loopback are unreachable."""
    try:
        client = DockerClient(timeout=_ENGINE_SECONDS).client
    except (OSError, DockerException) as error:
        first: BaseException = error  # the root cause: no such file, or permission denied
        while first.__context__ is not None:
            first = first.__context__
        raise BrokerNotFound(f"no Docker engine responds ({_first_line(first)})") from error
    try:
        url = str(client.api.base_url)
        if url != "http+docker://localhost":
            raise BrokerNotFound(f"expected a Docker engine on this machine's socket, got {url}")
        yield client
    finally:
        client.close()


@contextmanager
def _without_reaper() -> Iterator[None]:
    """Disable testcontainers' reaper, a privileged second container that its `start` would run.

    The reaper needs its own image, publishes a port on all interfaces, and would remove a broker that is to be
    kept. Instead, each run removes the containers that crashed runs left behind.
    """
    before = testcontainers_config.ryuk_disabled
    testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before


def _first_line(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or str(error)  # Docker's message, without the HTTP details
    return (text.splitlines() or [type(error).__name__])[0]


class _Container(RabbitMqContainer):
    """A RabbitMQ container with a random password, its ports published on 127.0.0.1 only.

    The URLs always use 127.0.0.1. testcontainers takes a machine with /.dockerenv for a container, and would
    connect through the bridge's gateway, where no port is published.
    """

    def __init__(self, image: str, name: str) -> None:
        super().__init__(image, _AMQP_PORT, "broker-app", secrets.token_urlsafe(24), "/", name=name)
        self.version = ""
        self.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", FRESH_STATISTICS)
        self.with_kwargs(network="bridge", ulimits=[{"name": "nofile", "soft": _OPEN_FILES, "hard": _OPEN_FILES}])
        ports: dict[str, Any] = {str(port): (LOOPBACK,) for port in (_AMQP_PORT, _MANAGEMENT_PORT)}
        self.ports = ports  # wider than testcontainers' type: any free port on one address

    @property
    def amqp_url(self) -> str:
        return f"amqp://{self.username}:{self.password}@{LOOPBACK}:{self._published(_AMQP_PORT)}//"

    @property
    def management_url(self) -> str | None:
        url = f"http://{LOOPBACK}:{self._published(_MANAGEMENT_PORT)}"
        return url if wait_for_management(url, self.amqp_url, _MANAGEMENT_SECONDS) else None

    def readiness_probe(self) -> bool:
        self.version = wait_for_version(self.amqp_url, _START_SECONDS, self._check_alive)
        return True

    def _published(self, port: int) -> int:
        return int(self.get_docker_client().port(self.get_container_id(), port))

    def _check_alive(self) -> None:
        self.reload()
        if self.status != "running":
            lines = b"\n".join(self.get_logs()).decode(errors="replace").splitlines()
            tail = " | ".join(lines[-_LOG_LINES:])
            raise BrokerNotFound(f"{self.image}: the container is {self.status}; its log: {tail}")
