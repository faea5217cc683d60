"""Cancelled tasks, remembered by the broker: a stream of ids that every worker reads when it starts.

Celery keeps what was revoked in the workers' memory; after a restart a revoked countdown task runs. Here
`Control.revoke` writes the ids to the stream first, and a worker that connects reads the stream to its end
before it takes its first task. Reading needs the right to read and no more, and leaves nothing behind, however
many workers start and how often: what fills the bounded stream are cancellations.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app import control as celery_control
from celery.worker import state as worker_state

from broker_app import topology
from broker_app.mailbox import Mailbox
from broker_app.queues import Names
from broker_app.streams import Stream, append

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_app.app import BrokerApp

MAX_REMEMBERED = 100_000
"""Cancelled ids that a worker holds in memory; the oldest go first."""

IDS_PER_ENTRY = 500
"""Ids in one message of the stream: a list is written in few messages, a single id in one."""

WAITING_STATES = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})
"""What Celery's worker lets a revoke overwrite (celery/worker/control.py, ``_revoke``)."""

logger = logging.getLogger(__name__)


class Control(celery_control.Control):
    """Celery's remote control, whose revokes hold over restarts of the workers."""

    Mailbox = Mailbox

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel tasks: written to the broker, then told to the workers that run now.

        A task that does not run says REVOKED at once, if its result store answers; else when a worker meets it.

        Args:
            task_id: An id, or a list of ids.
            *args: Celery's (destination, terminate, signal); a destination is told first, all workers hear of it.
            **options: Celery's.

        Raises:
            BrokerError: The broker did not take the cancellation; of a list, it may have taken some. Cancelling
                again does no harm.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        _write(self.app, ids)
        _mark_revoked(self.app, ids)  # before the workers are told, who would all do it at once
        return super().revoke(ids, *args, **options)


def stream(app: BrokerApp) -> Stream:
    """Return the stream of cancelled ids, for a worker to follow.

    Args:
        app: The app, for its prefix.
    """
    # Celery forgets revokes after three hours; ours are bounded by the stream.
    worker_state.revoked.maxlen, worker_state.revoked.expires = MAX_REMEMBERED, 0
    return Stream(
        Names(app.settings.prefix).cancelled,
        _learn,
        begin=lambda: _write(app, []),
        unread="cancelled tasks will run",
    )


def _learn(entry: dict[str, Any]) -> None:
    for identity in entry["ids"]:
        if isinstance(identity, str) and identity not in worker_state.revoked:
            worker_state.revoked.add(identity)


def _write(app: BrokerApp, ids: Sequence[str]) -> None:
    """Append ids to the stream; none at all is an entry too."""
    parts = [ids[start : start + IDS_PER_ENTRY] for start in range(0, max(1, len(ids)), IDS_PER_ENTRY)]
    append(app, Names(app.settings.prefix).cancelled, [{"ids": list(part)} for part in parts], verb="cancel")


def _mark_revoked(app: BrokerApp, ids: Sequence[str]) -> None:
    """Say REVOKED in the result store for tasks that do not run; the cancellation holds without it."""
    try:
        for identity in ids:
            if app.backend.get_state(identity) in WAITING_STATES:
                app.backend.mark_as_revoked(identity, reason="revoked")
    except NotImplementedError as error:  # result_backend="disabled://"
        logger.debug("no result store: %s", error)
    except Exception as error:  # noqa: BLE001 - each store has its own
        logger.warning("cancelled, but the result store cannot be told: %s", topology.words(error))
