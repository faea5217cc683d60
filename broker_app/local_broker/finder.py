"""Find a broker: the one that was given, or start one in Docker or from the installed program, in this order."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Self

from broker_app.errors import BrokerAppError, BrokerNotFound, PrivateNodeError
from broker_app.local_broker.debian import install_server
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
    """A way to get a broker that nobody gave us."""

    CONTAINER = "a container in Docker"
    INSTALLED = "a private node of the installed rabbitmq-server"
    PACKAGE = "the same, after installing it from Debian's packages as root"


@dataclass
class FoundBroker:
    """A broker that answers. As a context manager it ends with the block, unless it was given or kept.

    Attributes:
        url: Its AMQP URL, with the password.
        management_url: The management API's, without user and password, which are those of ``url``; None if there
            is none, or none is known of a broker that was given.
        how: What it is, in a few words for people; no password.
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
        """Let it outlive this process: `attach_broker` finds it, and only ``close`` ends it."""
        if self._home is not None:
            self._home.keep()
            self._is_kept = True

    def close(self) -> None:
        """End it and remove its data; one that was given stays as it is.

        Raises:
            BrokerAppError: It did not end.
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
    """Return a broker that answers: the one at ``url``, or one that is started here, in the order of ``ways``.

    What a crashed run left in ``state_dir`` is ended first; what runs for a living process, or was kept, is not.

    Args:
        state_dir: Where a broker that is started keeps its files.
        url: The broker that the user chose: if it does not answer there is no other.
        management_url: Its management API, if known.
        image: The image for Docker.
        announce: Told in one sentence each what takes long, and why a way is closed.
        ways: The ways to try.

    Raises:
        BrokerNotFound: None answers; the text says what to install.
        PrivateNodeError: RabbitMQ is installed and does not start.
    """
    if url is not None:
        return FoundBroker(url, management_url, "the broker that was given", ask_version(url))
    end_leftovers(state_dir, announce)
    closed = []
    for way in ways:
        try:
            return _start(way, state_dir, image, announce)
        except BrokerNotFound as reason:
            announce(f"not {way.value}: {reason}")
            closed.append(str(reason))
    raise BrokerNotFound(
        f"no broker could be found: install Docker and the image {image}, or the package {SERVER}, "
        f"or set BROKER_APP_BROKER_URL ({'; '.join(closed)})"
    )


def attach_broker(state_dir: Path) -> FoundBroker | None:
    """Return the broker that an earlier run kept in ``state_dir``; None if there is none that answers.

    One that does not answer any more, as after a reboot, is cleared away.
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
    """End what crashed runs have left in ``state_dir``; `find_broker` does it too, before it starts another.

    What runs for a living process, or was kept, is not touched.
    """
    for home in BrokerHome.all(state_dir):
        try:
            if home.read().is_kept or not home.hold():
                continue
            _end(home)
        except FileNotFoundError:
            continue  # another process was faster
        except BrokerAppError as error:
            home.release()
            announce(f"a broker of an earlier run may still run ({home.name}): {error}")
        else:
            announce(f"ended a broker that an earlier run had left ({home.name})")


def _start(way: BrokerSource, state_dir: Path, image: str, announce: Announce) -> FoundBroker:
    home = BrokerHome.create(state_dir, BrokerRecord(in_container=way is BrokerSource.CONTAINER))
    try:
        if way is BrokerSource.CONTAINER:
            record = _start_container(home, image, announce)
        else:
            record = _start_node(way, home, announce)
    except BaseException:
        home.remove()  # a start that failed has ended what it started
        raise
    home.write(record)
    return FoundBroker(record.url, record.management_url, record.how, record.version, home)


def _start_container(home: BrokerHome, image: str, announce: Announce) -> BrokerRecord:
    broker = _containers().start_container(image, home.name, announce)
    how = f"the Docker container {home.name} ({image})"
    return _started(home, broker, how)


def _start_node(way: BrokerSource, home: BrokerHome, announce: Announce) -> BrokerRecord:
    try:
        server = find_server(os.environ.get("PATH", ""))
    except BrokerNotFound:
        if way is not BrokerSource.PACKAGE:
            raise
        install_server(announce)
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
    """End the broker at once: its data goes with it, so there is nothing to stop in order for."""
    if home.read().in_container:
        _containers().remove_container(home.name)
    else:
        _kill_node(home.folder / _NODE)
    home.remove()


def _kill_node(folder: Path) -> None:
    try:
        node = PrivateNode.attach(folder)
    except PrivateNodeError:
        return  # the run crashed before it had started one
    node.kill()


def _containers() -> ModuleType:
    try:
        from broker_app.local_broker import container  # noqa: PLC0415 - it needs an extra that may be missing
    except ImportError as error:
        raise BrokerNotFound(f"{error.name} is not installed: pip install 'broker-app[containers]'") from error
    return container
