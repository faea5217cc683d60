"""The broker that is measured: named, started from an image, or found as the product finds one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.management import Management
from broker_app.local_broker import DEFAULT_IMAGE, BrokerSource, find_broker
from broker_app.local_broker.home import BrokerHome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANAGEMENT_PORT = 15672
"""RabbitMQ's default, rabbitmq.com/docs/management."""

DATA_FOLDER = "/var/lib/rabbitmq"
"""Of RabbitMQ in a container."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The wanted broker; without a variable it is the one that the product would find.

    Attributes:
        url: AMQP URL of one that runs; its user must be an administrator, to make virtual hosts.
        management_url: Its management API; None for port 15672 of the same host.
        image: An image to start it from.
    """

    url: str | None = None
    management_url: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker.

    Attributes:
        version: Such as ``4.3.6``.
        origin: Where it comes from, for the reader of a table; no password.
        management: Its management API.
        disk_bytes: Returns what its data take on disk; None if we cannot look there.
        is_started: Whether it was started for the run.
        image: What it was started from; None for a private node, or one that ran already.
    """

    version: str
    origin: str
    management: Management
    disk_bytes: Callable[[], int] | None
    is_started: bool = False
    image: str | None = None


@contextmanager
def open_broker(choice: Choice, folder: Path, announce: Callable[[str], None]) -> Iterator[Broker]:
    """Hand out a broker; one that was started for it ends with the block.

    Args:
        choice: Which one.
        folder: Where a started one keeps its files.
        announce: Told what takes long.

    Raises:
        BrokerNotFound: None can be had.
    """
    ways = (BrokerSource.CONTAINER,) if choice.image else tuple(BrokerSource)
    image = choice.image or DEFAULT_IMAGE
    with find_broker(folder, url=choice.url, image=image, announce=announce, ways=ways) as found:
        host = urlsplit(found.url).hostname
        management_url = choice.management_url or found.management_url or f"http://{host}:{MANAGEMENT_PORT}"
        management = Management(management_url, found.url)
        yield _with_whereabouts(folder, image, found.version, management)


def _with_whereabouts(folder: Path, image: str, version: str, management: Management) -> Broker:
    """Return the broker of this run with where it comes from, and how to see what it keeps on disk."""
    homes = BrokerHome.all(folder)
    if not homes:
        return Broker(version, "a broker that ran already", management, None)
    if homes[0].read().in_container:
        look = partial(_container_bytes, homes[0].name)
        return Broker(version, f"`{image}` in Docker", management, look, is_started=True, image=image)
    look = partial(_folder_bytes, homes[0].folder)
    return Broker(version, "a private node", management, look, is_started=True)


def _container_bytes(name: str) -> int:
    import docker  # noqa: PLC0415 - comes with an extra, and only with a broker in Docker

    client = docker.from_env()
    try:
        status, output = client.containers.get(name).exec_run(["du", "-sk", DATA_FOLDER])
    finally:
        client.close()
    assert status == 0, output
    return int(output.split()[0]) * 1024


def _folder_bytes(folder: Path) -> int:
    """Return the blocks that a folder's files occupy; stat(2) counts them in 512 bytes."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)  # noqa: PTH118
    return sum(os.lstat(path).st_blocks * 512 for path in paths)
