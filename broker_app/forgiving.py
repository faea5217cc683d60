"""A result store that may fail: what it cannot be told neither keeps a task from running nor ends a worker."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.backends.base import Backend

TRIED_ONCE = frozenset({states.STARTED, states.RETRY, states.REVOKED})
"""What holds without being stored: the task runs, or its retry is on the broker, or it is refused."""

FORGIVEN = TRIED_ONCE | {states.FAILURE}
"""A failure stands in the dead letters too. Without a success nobody would know: that is a failure then."""

logger = logging.getLogger(__name__)


class Forgiving:
    """Mixed into a backend's class.

    Celery stores STARTED before it runs a task, REVOKED in the loop of the worker, and FAILURE before it calls the
    errbacks: an error there would send tasks into the dead letters that could have run, end every worker that
    meets a cancelled or expired task, and leave errbacks uncalled.
    """

    _store_result: Any
    encode_result: Any

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """Store a state, as Celery's; what holds without it only warns if that fails."""
        if state not in FORGIVEN:
            return super().store_result(task_id, result, state, traceback, request=request, **options)  # type: ignore[misc]
        with _only_warned_of(task_id, state):
            if state not in TRIED_ONCE:
                return super().store_result(task_id, result, state, traceback, request=request, **options)  # type: ignore[misc]
            encoded = self.encode_result(result, state)
            self._store_result(task_id, encoded, state, traceback, request=request, **options)
        return self.encode_result(result, state)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **options: Any) -> None:
        """Count a member of a chord, as Celery's; likewise."""
        if state not in FORGIVEN:
            super().on_chord_part_return(request, state, result, **options)  # type: ignore[misc]
            return
        with _only_warned_of(request.id, state):
            super().on_chord_part_return(request, state, result, **options)  # type: ignore[misc]


@contextmanager
def _only_warned_of(task_id: str, state: str) -> Iterator[None]:
    try:
        yield
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - each store has its own
        logger.warning("task [%s]: its result store cannot be told %s: %r", task_id, state, error)


def forgiving(backend: Backend) -> Backend:
    """Return a backend, with `Forgiving` mixed into its class."""
    kind = type(backend)
    backend.__class__ = type(kind.__name__, (Forgiving, kind), {"__module__": kind.__module__})
    return backend
