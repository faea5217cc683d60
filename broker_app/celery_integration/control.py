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

from broker_app.broker.cancellations import write_cancellations
from broker_app.celery_integration.mailbox import Mailbox
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery


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
        write_cancellations(self.app, ids)
        _mark_revoked(self.app, ids)  # before the workers are told, who would all do it at once
        return super().revoke(ids, *args, **options)


def _mark_revoked(app: Celery, ids: Sequence[str]) -> None:
    """Say REVOKED in the result store for tasks that do not run; the cancellation holds without it."""
    try:
        for identity in ids:
            if app.backend.get_state(identity) in WAITING_STATES:
                app.backend.mark_as_revoked(identity, reason="revoked")
    except NotImplementedError as error:  # result_backend="disabled://"
        logger.debug("no result store: %s", error)
    except Exception as error:  # noqa: BLE001 - each store has its own
        logger.warning("cancelled, but the result store cannot be told: %s", error_text(error))
