"""Control: remote control whose revocations are persistent, in a stream of task ids that every worker reads.

Celery keeps revoked ids in the workers' memory, so a revoked task with a countdown runs after a restart. Here
`Control.revoke` first writes the ids to the stream, and a connecting worker reads the stream to its end before it
receives its first task. Reading requires only the read permission and adds nothing to the bounded stream: only
cancellations fill it, however often workers start.
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
"""States that a revoke overwrites, as in Celery's worker (celery/worker/control.py, ``_revoke``)."""

logger = logging.getLogger(__name__)


class Control(celery_control.Control):
    """Celery's remote control, with revocations that survive worker restarts."""

    Mailbox = Mailbox

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel tasks: write their ids to the broker, then notify the running workers.

        A task that is not running becomes REVOKED at once if its result backend is reachable, or else when a
        worker receives it.

        Args:
            task_id: An id, or a list of ids.
            *args: Celery's (destination, terminate, signal). With a destination, other workers still learn of the
                cancellation from the stream.
            **options: Celery's options.

        Raises:
            BrokerError: The broker did not confirm the cancellation; of a list, it may have confirmed a part. It
                is safe to cancel again.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        write_cancellations(self.app, ids)
        _mark_revoked(self.app, ids)  # before all workers are notified, who would all do it at once
        return super().revoke(ids, *args, **options)


def _mark_revoked(app: Celery, ids: Sequence[str]) -> None:
    """Store REVOKED for tasks that are not running; the cancellation is effective without it."""
    try:
        for identity in ids:
            if app.backend.get_state(identity) in WAITING_STATES:
                app.backend.mark_as_revoked(identity, reason="revoked")
    except NotImplementedError as error:  # result_backend="disabled://"
        logger.debug("no result store: %s", error)
    except Exception as error:  # noqa: BLE001 - each backend raises its own errors
        logger.warning("cancelled, but failed to store REVOKED in the result store: %s", error_text(error))
