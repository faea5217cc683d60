"""Remote inspection: ask workers over the broker for their pid, queues, pool and task counts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.broker.declare import queue_exists
from broker_app.errors import BrokerLocked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import amqp
    from celery import Celery

logger = logging.getLogger(__name__)

_POOLS = {"thread": "threads", "asyncio_pool": "asyncio"}
"""Values of Celery's ``-P`` that differ from the pool's module name."""


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """A worker's reply about itself.

    Attributes:
        pid: Pid of its main process.
        queues: Broker names of the queues it consumes.
        pool: Value of Celery's ``-P``.
        slots: Maximum number of concurrent tasks.
        active: Number of running tasks; None if not requested, or not answered in time.
        begun: Number of tasks started since the worker started.
    """

    pid: int
    queues: tuple[str, ...]
    pool: str
    slots: int
    active: int | None
    begun: int


def ask_workers(
    app: Celery, names: Sequence[str], *, timeout_seconds: float, with_active: bool = False
) -> dict[str, WorkerReply]:
    """Return the replies that arrived in time, by node name; silent workers are missing.

    A solo pool cannot reply while it runs a task.

    Args:
        app: The app whose broker is used.
        names: Node names.
        timeout_seconds: Timeout of each of the two rounds (three with ``with_active``).
        with_active: Whether to ask for the running tasks too.

    Raises:
        OperationalError: The connection failed.
    """
    stats = _ask(app, "stats", names, timeout_seconds)
    queues = _ask(app, "active_queues", list(stats), timeout_seconds)
    active = _ask(app, "active", list(queues), timeout_seconds) if with_active else {}
    return {
        name: WorkerReply(
            pid=stats[name]["pid"],
            queues=tuple(queue["name"] for queue in queues[name]),
            pool=pool_name(stats[name]["pool"]["implementation"]),
            slots=stats[name]["pool"]["max-concurrency"],
            active=len(active[name]) if name in active else None,
            begun=sum(stats[name]["total"].values()),
        )
        for name in queues
    }


def is_name_taken(app: Celery, connection: amqp.Connection, name: str) -> bool:
    """Return whether a worker with this node name is connected: its exclusive control queue is locked (405)."""
    try:
        return queue_exists(connection, app.control.mailbox.get_queue(name).name)
    except BrokerLocked:
        return True


def _ask(app: Celery, question: str, names: Sequence[str], timeout_seconds: float) -> dict[str, Any]:
    if not names:
        return {}
    replies = app.control.broadcast(question, destination=list(names), reply=True, timeout=timeout_seconds)
    answers = {name: answer for reply in replies or () for name, answer in reply.items()}
    for name, answer in answers.items():
        if isinstance(answer, dict) and "error" in answer:
            logger.warning("%s cannot answer %r: %s", name, question, answer["error"])
    return {n: answer for n, answer in answers.items() if not (isinstance(answer, dict) and "error" in answer)}


def pool_name(implementation: str) -> str:
    """Return ``threads`` for ``celery.concurrency.thread:TaskPool``."""
    module = implementation.partition(":")[0].rpartition(".")[2]
    return _POOLS.get(module, module)
