"""Asking the workers over the broker: who answers, and what does it consume?"""

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

_POOLS = {"thread": "threads"}
"""Celery's ``-P`` where its module is called otherwise."""


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """What a worker says about itself.

    Attributes:
        pid: Of its main process.
        queues: What it consumes, as on the broker.
        pool: Celery's ``-P``.
        slots: Tasks that it can run at once.
        active: Tasks that it runs now; None if it was not asked, or did not say in time.
        begun: Tasks that it has begun since its start.
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
    """Return the answers that came in time, by node name; who is silent is not in it.

    A solo pool is silent while it runs a task.

    Args:
        app: Its broker is asked.
        names: Node names.
        timeout_seconds: Of each round; there are two, or three with ``with_active``.
        with_active: Whether to count the running tasks too.

    Raises:
        OperationalError: The connection broke.
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
    """Return whether a worker of this node name is connected: its control queue is exclusive to it (405)."""
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
