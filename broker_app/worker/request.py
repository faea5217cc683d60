"""Request: a delivered task, with the remainder of its delay and its dead-lettering."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded
from celery import signals, states
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.worker import request as celery_request
from celery.worker.state import task_ready

from broker_app.celery_integration.tracer import contained
from broker_app.errors import Rejected
from broker_app.metrics.catalogue import TaskOutcome
from broker_app.queues.dead_letters import DeadLetterCause, DeadReason
from broker_app.queues.delay import MAX_DELAY_SECONDS, split_delay
from broker_app.queues.headers import DELAY_HEADER
from broker_app.worker.arrived_message import custom_headers, keep_arrived
from broker_app.worker.invalid_messages import executed
from broker_app.worker.last_resort import begun, settled
from broker_app.worker.message_form import WellFormed
from broker_app.worker.request_metrics import CountedRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.queues import QueueSpec
    from broker_app.worker.admission import Admission

logger = logging.getLogger(__name__)

_BEGINNING = threading.Lock()

_GUARDS = {
    "execute_using_pool": executed,
    "on_accepted": begun,
    "on_success": settled,
    "on_failure": settled,
    "on_timeout": settled,
}

_NO_DEATH = (Ignore, Retry, Reject, Terminated, MemoryError, SystemExit, KeyboardInterrupt)
"""Exceptions after which a task is not dead-lettered as failed; for `Reject` see `Request.on_failure`."""


class Request(CountedRequest, WellFormed, celery_request.Request):
    """Celery's request, dead-lettered with its reason when it is given up.

    A worker holds it at most for the fraction of a second of its delay that the lanes did not hold.

    Attributes:
        admission: The admission control that it passed; None if it has not.
        spec: The queue that delivered it; None if the settings do not have that queue.
    """

    admission: Admission | None = None
    spec: QueueSpec | None = None
    _death: DeadLetterCause | None = None
    _is_begun = False
    _is_withdrawn = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "execute_using_pool" in vars(cls):  # Celery makes a class for each task
            for name, wrap in _GUARDS.items():
                setattr(cls, name, wrap(getattr(cls, name)))

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        keep_arrived(message)
        if self._request_dict.get("headers") is None:
            self._request_dict["headers"] = custom_headers(self._request_dict)
        if self._eta is not None:
            self._eta: datetime | None = remaining_eta(self._eta, self._request_dict, datetime.now(UTC))

    def withdraw(self) -> bool:
        """Prevent the task from starting, wherever it waits in the worker; return False if it has started."""
        with _BEGINNING:
            self._is_withdrawn = not self._is_begun
        return self._is_withdrawn

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Start the task, in the thread or greenlet that runs it; with processes, record that it has started.

        Raises:
            TaskRevokedError: The task was withdrawn; the pool drops it.
        """
        with _BEGINNING:
            if self._is_withdrawn:
                raise TaskRevokedError(f"{self.humaninfo()} was returned to its queue")
            self._is_begun = True
        if self.admission is not None:
            self.admission.accept(self)
        super().on_accepted(pid, time_accepted)

    def revoked(self) -> bool:
        """Return whether the task must not start; Celery asks this in `execute_using_pool`, and frees its slot."""
        return self._is_withdrawn or bool(super().revoked())

    def hand_on_decoded(self) -> None:
        """Pass the decoded body to the pool, unless Celery does so already."""
        if not self._decoded:
            self._body, self._content_type, self._content_encoding = self.message.payload, None, None

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """Handle a task's exception, as Celery does, but dead-letter tasks that Celery would reject and lose."""
        error = _error_of(exc_info)
        traceback = str(exc_info.traceback or "")
        if isinstance(error, Reject):
            if error.requeue:
                self._requeue()
            else:
                self._give_up_rejected(error, traceback)
            return
        if not isinstance(error, _NO_DEATH):
            is_late = isinstance(error, TimeLimitExceeded)
            self._death = DeadLetterCause(DeadReason.TIMED_OUT if is_late else DeadReason.FAILED, error, traceback)
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        is_reported = isinstance(error, _NO_DEATH)  # Ignore after a time limit: it already has a death
        if self._death and not is_reported and not self.task.acks_late:  # acknowledged when it started
            self._keep(self._death)

    def time_out(self, limit_seconds: float, where: str) -> None:
        """Give up the task because it exceeded its hard time limit; with processes, Celery does this.

        Args:
            limit_seconds: The exceeded limit.
            where: The task's stack.
        """
        error = TimeLimitExceeded(limit_seconds)
        logger.error("%s: exceeded its time limit of %g s; its stack:\n%s", self.humaninfo(), limit_seconds, where)
        self._count_end(TaskOutcome.TIMED_OUT)
        death = DeadLetterCause(DeadReason.TIMED_OUT, error, where)
        self.give_up(death)
        if not self.task.acks_late:  # acknowledged when it started
            self._keep(death)
        with contained("%s: its on_failure", self.humaninfo()):
            self.task.on_failure(error, self.id, self.args, self.kwargs, _info_of(error))
        with contained("%s: its after_return", self.humaninfo()):
            self.task.after_return(states.FAILURE, error, self.id, self.args, self.kwargs, None)

    def give_up(self, death: DeadLetterCause) -> None:
        """Store FAILURE with a typed error, call the errbacks, fail the chord, and dead-letter the message."""
        task_ready(self)
        with contained("%s: storing its failure", self.humaninfo()):
            self.task.backend.mark_as_failure(
                self.id, death.error, request=self._context, store_result=self.store_errors
            )
        with contained("%s: reporting its failure", self.humaninfo()):
            signals.task_failure.send(
                sender=self.task,
                task_id=self.id,
                exception=death.error,
                args=self.args,
                kwargs=self.kwargs,
                traceback=death.traceback,
                einfo=_info_of(death.error),
            )
            self.send_event("task-failed", exception=repr(death.error), traceback=death.traceback)
        self._death = death
        self.reject(requeue=False)

    def settle_anyway(self, error: BaseException | None, text: str) -> None:
        """Settle a message that is still unsettled after its task has ended.

        Args:
            error: The exception raised while the outcome was reported, if any.
            text: The exception's traceback.
        """
        if self._death is None and error is not None:
            self._death = DeadLetterCause(DeadReason.FAILED, error, text)
        if self._death is None:
            self.acknowledge()
        else:
            self.reject(requeue=False)

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """Reject the message, as Celery does; without requeue it is dead-lettered with its reason.

        A task that exceeded its hard time limit is dead-lettered too; Celery would run it again.
        """
        death = self._death
        is_final = death is not None and (not requeue or death.reason is DeadReason.TIMED_OUT)
        if death is not None and is_final and not self.acknowledged and self._keep(death):
            self.acknowledge()
            return
        super().reject(requeue=requeue and not is_final)

    def _success_was_stored(self) -> Any:
        """Return the result if the task succeeded before its worker was lost; it is then not dead-lettered."""
        stored = super()._success_was_stored()
        self._death = None if stored else self._death
        if stored:
            self.task.backend.count_again(self._context, states.SUCCESS, stored.get("result"))
        return stored

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> bool:
        """Return whether Celery republished the task after its worker was lost; it is then not dead-lettered."""
        is_sent: bool = super()._retry_worker_lost(exc, exc_info)
        self._death = None if is_sent else self._death
        return is_sent

    def _requeue(self) -> None:
        """Requeue a task that asked for it, without counting it as a crash of its worker."""
        task_ready(self)
        if self.acknowledged:  # when it started; Celery then does nothing either
            return
        if self.admission and self.spec and self.admission.dead_letters.requeue(self.message, self.spec):
            self.acknowledge()
            return
        if self.admission:
            self.admission.excuse(self)
        self.reject(requeue=True)

    def _give_up_rejected(self, error: Reject, traceback: str) -> None:
        cause = error.reason if isinstance(error.reason, BaseException) else None
        words = f"{type(cause).__name__}: {cause}" if cause else str(error.reason)
        queue = self.spec.name if self.spec else ""
        rejected = Rejected(self.name, self.id, queue, f"it was rejected: {words}")
        self.give_up(DeadLetterCause(DeadReason.REJECTED, rejected, traceback))

    def _keep(self, death: DeadLetterCause) -> bool:
        """Dead-letter a copy; return whether the original may be acknowledged."""
        if self.admission is None or self.spec is None:
            return False
        return self.admission.dead_letters.keep(self.message, self.spec, death)


def _error_of(exc_info: Any) -> BaseException:
    """Return the exception of Celery's exception info, unwrapped as Celery does."""
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _info_of(error: BaseException) -> ExceptionInfo:
    """Return an exception in the form that Celery passes to failure handlers."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def remaining_eta(eta: datetime | None, headers: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return the time until which the worker's timer holds a task, or None to run it at once.

    Args:
        eta: The time at which the task is due, by the producer's clock.
        headers: The message's headers. With `DELAY_HEADER` the lanes have already held the delay, so at most a
            fraction of a second is left, whatever this machine's clock says. Without it another client published
            the message, and its eta is used as it is.
        now: The current time of this machine.
    """
    delay = headers.get(DELAY_HEADER)
    if eta is None or not isinstance(delay, (int, float)) or not 0 <= delay < MAX_DELAY_SECONDS + 1:
        return eta  # without a valid delay, the header is not ours
    latest = now + timedelta(seconds=split_delay(delay).fraction)
    until = min(eta, latest)
    return until if until > now else None
