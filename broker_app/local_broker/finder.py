"""Broker discovery: use the given broker, or start one in Docker or from the installed program, in this order."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Self

from broker_app.errors import BrokerAppError, BrokerNotFound, PrivateNodeError
from broker_app.local_broker.home import BrokerHome, BrokerRecord
from broker_app.local_broker.node_config import SERVER, find_server
from broker_app.local_broker.private_node import PrivateNode
from broker_app.local_broker.readiness import ask_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import ModuleType, TracebackType

    from broker_app.local_broker.container import RunningContainer

    Announce = Callable[[str], None]

DEFAULT_IMAGE = "rabbitmq:4-management"
_NODE = "node"

logger = logging.getLogger(__name__)


class BrokerSource(Enum):
    """A source for a broker if none is given."""

    CONTAINER = "a container in Docker"
    INSTALLED = "a private node of the installed rabbitmq-server"


@dataclass
class FoundBroker:
    """A running broker. As a context manager it ends the broker after the block, unless it was given or kept.

    Attributes:
        url: Its AMQP URL, with the password.
        management_url: URL of the management API, without credentials; they are those of ``url``. None if the
            broker has no management API or its URL is unknown.
        how: A short description of the broker, without the password.
        version: RabbitMQ's version, such as ``4.3.6``.
    """

    url: str = field(repr=False)
    management_url: str | None
    how: str
    version: str
    _home: BrokerHome | None = field(default=None, repr=False)
    _is_kept: bool = field(default=False, repr=False)
    _found_in: int = field(default_factory=os.getpid, repr=False)

    def keep(self) -> None:
        """Let the broker outlive this process. `attach_broker` finds it, and only `close` ends it."""
        if self._home is not None:
            self._home.keep()
            self._is_kept = True

    def close(self) -> None:
        """End the broker and remove its data. A given broker is left alone.

        Raises:
            BrokerAppError: The broker did not end.
        """
        if self._home is not None:
            with suppress(FileNotFoundError):  # another process closed it first, as `demo --stop` may
                _end(self._home)
            self._home.release()
            self._home = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._found_in and not self._is_kept:
            self.close()


def find_broker(
    state_dir: Path,
    *,
    url: str | None = None,
    management_url: str | None = None,
    image: str = DEFAULT_IMAGE,
    announce: Announce = logger.info,
    ways: Sequence[BrokerSource] = tuple(BrokerSource),
) -> FoundBroker:
    """Return a running broker: the one at ``url``, or a new one from the first of ``ways`` that works.

    Before a new broker starts, brokers of crashed runs in ``state_dir`` are ended; see `end_leftovers`.

    Args:
        state_dir: Folder for the files of a new broker.
        url: The user's broker. If it does not respond, no other broker is tried.
        management_url: Its management API, if known.
        image: The image for Docker.
        announce: Called with one sentence before each slow step, and when a source is not available.
        ways: The sources to try, in order.

    Raises:
        BrokerNotFound: No broker was found; the text says what to install.
        PrivateNodeError: RabbitMQ is installed but does not start.
    """
    if url is not None:
        return FoundBroker(url, management_url, "the given broker", ask_version(url))
    end_leftovers(state_dir, announce)
    reasons = []
    for way in ways:
        try:
            return _start(way, state_dir, image, announce)
        except BrokerNotFound as reason:
            announce(f"skipping {way.value}: {reason}")
            reasons.append(str(reason))
    raise BrokerNotFound(
        f"no broker could be found: install Docker and the image {image}, or the package {SERVER} "
        f"(apt-get install {SERVER}), or set BROKER_APP_BROKER_URL ({'; '.join(reasons)})"
    )


def attach_broker(state_dir: Path) -> FoundBroker | None:
    """Return the broker that an earlier run kept in ``state_dir``; None if no kept broker responds.

    Kept brokers that no longer respond, for example after a reboot, are removed.
    """
    for home in BrokerHome.all(state_dir):
        record = home.read()
        if not record.is_kept:
            continue
        try:
            ask_version(record.url)
        except BrokerNotFound:
            _end(home)
        else:
            return FoundBroker(record.url, record.management_url, record.how, record.version, home, _is_kept=True)
    return None


def end_leftovers(state_dir: Path, announce: Announce = logger.info) -> None:
    """End the brokers that crashed runs left in ``state_dir``. `find_broker` does this before it starts a broker.

    Brokers that belong to a running process, and brokers that were kept, are left alone.
    """
    for home in BrokerHome.all(state_dir):
        try:
            if home.read().is_kept or not home.hold():
                continue
            _end(home)
        except FileNotFoundError:
            continue  # another process ended it first
        except BrokerAppError as error:
            home.release()
            announce(f"a broker of an earlier run may still be running ({home.name}): {error}")
        else:
            announce(f"ended a broker left by an earlier run ({home.name})")


def _start(way: BrokerSource, state_dir: Path, image: str, announce: Announce) -> FoundBroker:
    home = BrokerHome.create(state_dir, BrokerRecord(in_container=way is BrokerSource.CONTAINER))
    try:
        if way is BrokerSource.CONTAINER:
            record = _start_container(home, image, announce)
        else:
            record = _start_node(home, announce)
    except BaseException:
        home.remove()  # a failed start cleans up its own processes and containers
        raise
    home.write(record)
    return FoundBroker(record.url, record.management_url, record.how, record.version, home)


def _start_container(home: BrokerHome, image: str, announce: Announce) -> BrokerRecord:
    broker = _containers().start_container(image, home.name, announce)
    how = f"the Docker container {home.name} ({image})"
    return _started(home, broker, how)


def _start_node(home: BrokerHome, announce: Announce) -> BrokerRecord:
    server = find_server(os.environ.get("PATH", ""))
    announce(f"starting a private RabbitMQ node of {server}")
    node = PrivateNode(home.folder / _NODE).start()
    how = f"a private node in {node.folder}"
    return _started(home, node, how)


def _started(home: BrokerHome, broker: RunningContainer | PrivateNode, how: str) -> BrokerRecord:
    return replace(
        home.read(),
        url=broker.amqp_url,
        management_url=broker.management_url,
        how=how,
        version=broker.version,
    )


def _end(home: BrokerHome) -> None:
    """Kill the broker. Its data is removed too, so a clean shutdown is not needed."""
    if home.read().in_container:
        _containers().remove_container(home.name)
    else:
        _kill_node(home.folder / _NODE)
    home.remove()


def _kill_node(folder: Path) -> None:
    try:
        node = PrivateNode.attach(folder)
    except PrivateNodeError:
        return  # the run crashed before it started a node
    node.kill()


def _containers() -> ModuleType:
    try:
        from broker_app.local_broker import container  # noqa: PLC0415 - needs an optional dependency
    except ImportError as error:
        raise BrokerNotFound(f"{error.name} is not installed: pip install 'broker-app[containers]'") from error
    return container
