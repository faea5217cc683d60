"""Worker nodes: the nodes that the settings ask for, and their names.

A queue's first node is ``lopri@host``, the next ``lopri+2@host``. Scaling does not rename the remaining nodes, and
no queue name can contain a ``+``. Names start with the prefix, so two apps that share a host and a broker have
different nodes.
"""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.queues.spec import AMQP_SHORT_STRING_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.settings import FleetSettings, Settings

_NUMBER_SIGN = "+"
_NUMBER_BYTES = len("+1000")
_HASH_DIGITS = 8
_MIN_STEM_BYTES = 32
_MAX_STEM_BYTES = 230
"""File names have at most 255 bytes; a pool process number and ``.log`` follow the stem."""


@dataclass(frozen=True, slots=True)
class Node:
    """One worker started by `celery multi`.

    Attributes:
        queue: Name of the queue it consumes, as producers write it.
        stem: Node name without the host, also used for its files: ``lopri``, ``lopri+2``.
        host: This host's name.
    """

    queue: str
    stem: str
    host: str

    @property
    def name(self) -> str:
        """Celery's node name: ``lopri@host``."""
        return f"{self.stem}@{self.host}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The identical nodes of one queue.

    Attributes:
        queue: Its name, as producers write it.
        broker_queue: Its name on the broker, with the prefix.
        nodes: The nodes by number; empty if the settings ask for none.
        prefetch: Prefetched messages per slot; None if the nodes adapt it.
        settings: The other worker settings.
    """

    queue: str
    broker_queue: str
    nodes: tuple[Node, ...]
    prefetch: int | None
    settings: FleetSettings

    @property
    def pool(self) -> str:
        """Value of Celery's ``-P``."""
        return self.settings.pool

    @property
    def concurrency(self) -> int:
        """Slots per node."""
        return self.settings.concurrency


def wanted_fleets(
    settings: Settings, queues: Iterable[str] = (), scaled: Mapping[str, int] | None = None
) -> tuple[Fleet, ...]:
    """Return the fleets of some queues, or of all, in the order of the settings.

    Args:
        settings: Settings of the queues and their workers.
        queues: Names as producers write them; empty for all.
        scaled: Number of nodes by queue, overriding the settings.

    Raises:
        UnknownQueue: The settings do not declare one of ``queues``.
        FleetError: The prefix is too long for a worker's control queue.
    """
    table, host = settings.routing_table(), socket.gethostname()
    names = {table.queue(queue).name for queue in queues} or set(settings.queues)
    fleets = []
    for name, queue in settings.queues.items():
        if name not in names:
            continue
        count = (scaled or {}).get(name, queue.fleet.nodes)
        stem = first_stem(settings.prefix, name, host)
        stems = [stem, *(f"{stem}{_NUMBER_SIGN}{number}" for number in range(2, count + 1))]
        fleets.append(
            Fleet(
                queue=name,
                broker_queue=table.queue(name).broker_name,
                nodes=tuple(Node(name, stem, host) for stem in stems[:count]),
                prefetch=None if queue.prefetch == "auto" else queue.prefetch,
                settings=queue.fleet,
            )
        )
    return tuple(fleets)


def node_of(settings: Settings, stem: str) -> Node:
    """Return the node of a pid file, even if the settings no longer contain the node or its queue."""
    host = socket.gethostname()
    first = {first_stem(settings.prefix, name, host): name for name in settings.queues}
    head, _, number = stem.rpartition(_NUMBER_SIGN)
    queue = first.get(stem) or (first.get(head) if number.isdigit() else None)
    if queue is None:
        queue = (head if head and number.isdigit() else stem).removeprefix(settings.prefix)
    return Node(queue, stem, host)


def first_stem(prefix: str, queue: str, host: str) -> str:
    """Return the stem of a queue's first node: the queue's name on the broker, shortened if too long.

    The worker's control queue is named ``<stem>@<host>.<prefix>celery.pidbox`` and must fit too. `celery multi`
    would parse a leading ``-`` as an option.
    """
    room = AMQP_SHORT_STRING_BYTES - len(f"@{host}.{prefix}celery.pidbox".encode())
    limit = min(room, _MAX_STEM_BYTES) - _NUMBER_BYTES
    if limit < _MIN_STEM_BYTES:
        raise FleetError(
            f"prefix: a worker's control queue holds it and must fit into {AMQP_SHORT_STRING_BYTES} bytes, "
            f"got a prefix of {len(prefix)}; shorten it by {_MIN_STEM_BYTES - limit}"
        )
    stem = prefix + queue
    if stem.startswith("-"):
        stem = _NUMBER_SIGN + stem
    if len(stem) <= limit:
        return stem
    digest = hashlib.sha256(stem.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{stem[: limit - _HASH_DIGITS - 2]}{_NUMBER_SIGN}x{digest}"
