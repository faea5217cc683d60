"""Suspects: redelivered tasks, each of which may have killed its worker.

`broker_app.worker.poison.guard` decides when they run (docs/concepts/failures.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.worker import state

from broker_app.errors import Poisoned
from broker_app.queues.dead_letters import DeadLetterCause, DeadReason
from broker_app.worker.poison.guard import PoisonGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker_app.worker.poison.crash_log import CrashLog
    from broker_app.worker.request import Request


class Suspects:
    """The suspects of one worker.

    Args:
        crash_log: Counts their starts.
        run: Hands a request to the pool.
    """

    def __init__(self, crash_log: CrashLog, run: Callable[[Request], object]) -> None:
        self._crash_log = crash_log
        self._run = run
        self._guard: PoisonGuard[Request] = PoisonGuard(
            starts=lambda request: crash_log.starts(request.message.headers),
            limit=lambda request: request.spec.delivery_limit if request.spec else 1,
            run=self._start,
            give_up=_dead_letter_poisoned,
        )

    def admit(self, request: Request) -> bool:
        """Run a suspect now, or once no other one runs, or give it up.

        Returns:
            True for any other request, of which nothing is done here.
        """
        if request.spec is None or not request.delivery_info["redelivered"]:
            return True
        self._guard.admit(request)
        return False

    def release(self, request: Request) -> None:
        """Record that a request has ended; the next suspect starts unless the worker is shutting down.

        Call this once the request's message is settled. A suspect that starts earlier may kill the worker first;
        the ended task would then run again, and be blamed for that death.
        """
        self._crash_log.note_end(request.message.headers)
        if _is_stopping():
            self._guard.clear()
        self._guard.release(request)

    def excuse(self, request: Request) -> None:
        """Record that a request's task did not kill its worker."""
        self._crash_log.excuse(request.message.headers)

    def withdraw(self, requests: Collection[Request]) -> None:
        """Remove requests that are returned to their queue unstarted while the worker keeps running."""
        for request in requests:
            self.excuse(request)
        self._guard.withdraw(requests)

    def clear(self) -> None:
        """Remove all waiting requests, after a lost connection or at shutdown; the broker redelivers them."""
        self._guard.clear()
        self._crash_log.survive()
        if _is_stopping():  # otherwise it is written after the reconnect
            self._crash_log.acquit()

    def _start(self, request: Request) -> None:
        self._crash_log.note_start(request.message.headers)
        self._run(request)


def _is_stopping() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


def _dead_letter_poisoned(request: Request, starts: int) -> None:
    spec: Any = request.spec
    reason = (
        f"its worker died in each of its {starts} starts" if starts > 1 else "its worker died in its only start"
    )
    error = Poisoned(request.name, request.id, spec.name, reason)
    request.give_up(DeadLetterCause(DeadReason.POISONED, error, starts=starts))
