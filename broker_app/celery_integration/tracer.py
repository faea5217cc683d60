"""Tracer: makes every task report an outcome, whatever is raised in its body or around it.

Celery's tracer does not catch exceptions that are not an `Exception` (SystemExit, asyncio.CancelledError), nor
those raised while it handles another one, e.g. because the result backend fails while it stores a failure. Prefork
reports these as failures or ends its process. Threads and greenlets drop them: the message stays unsettled, and
each such message occupies one place of the worker's prefetch until none is left.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, report_internal_error, trace_ok_t
from celery.exceptions import Reject, WorkerShutdown, WorkerTerminate
from celery.worker import state

from broker_app.celery_integration.task_body import Replaced
from broker_app.errors import OutOfMemory, UncaughtBaseException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from celery import Celery

    from broker_app.celery_integration.task import Task

ENDS_OF_WORKER = (WorkerShutdown, WorkerTerminate)
"""Exceptions that shut down a Celery worker, wherever they are raised."""

logger = logging.getLogger(__name__)


def let_answer(tasks: Iterable[Task], *, hands_on: tuple[type[BaseException], ...] = ()) -> None:
    """Wrap the tracers of tasks so that they always return an outcome. Call this after Celery has built them.

    Args:
        tasks: The tasks.
        hands_on: Exceptions that the caller of the tracers handles itself.
    """
    for task in tasks:
        task.__trace__ = _answering(task, task.__trace__, hands_on)


def let_processes_answer(app: Celery) -> None:
    """Wrap the tracers in each pool process, where Celery rebuilds them; the process handles each `Exception`."""

    def begin(**_: Any) -> None:
        let_answer(app.tasks.values(), hands_on=(Exception,))

    signals.worker_process_init.connect(begin, weak=False, dispatch_uid=let_processes_answer)


def let_slots_answer(pool: Any) -> None:
    """Make a pool of threads or greenlets report exceptions raised outside a task's tracer as failures.

    Args:
        pool: Celery's pool. A pool of processes does this itself and is left unchanged.
    """
    if not (pool.body_can_be_buffer or pool.is_green):
        return
    apply = pool.on_apply

    def on_apply(target: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return apply(_failing(target), *args, **options)

    pool.on_apply = on_apply


def is_from_outside(error: BaseException, task_id: object) -> bool:
    """Return whether an exception was raised to stop a task, by its worker, a signal, or a revocation."""
    if isinstance(error, ENDS_OF_WORKER) or terminate_handler_fired():
        return True
    return type(error).__name__ == "GreenletExit" and task_id in state.revoked


def as_failure(error: BaseException, task: str, task_id: str, queue: str) -> Exception:
    """Return a task's exception, or a typed error for one that Celery does not treat as a failure."""
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        return error
    if isinstance(error, MemoryError):
        failure: Exception = OutOfMemory(task, task_id, queue, f"it ran out of memory: {error}")
    else:
        failure = UncaughtBaseException(task, task_id, queue, f"it raised {type(error).__name__}: {error}")
    return failure.with_traceback(error.__traceback__)


@contextmanager
def contained(what: str, *arguments: object) -> Iterator[None]:
    """Log an exception raised in a block and continue after the block.

    Args:
        what: The action, as a format string; the log line is "<action> failed".
        *arguments: Its arguments.
    """
    try:
        yield
    except ENDS_OF_WORKER:
        raise
    except BaseException:
        logger.exception(f"{what} failed", *arguments)  # noqa: G004 - a format string of the caller


def _answering(
    task: Task, trace: Callable[..., Any], hands_on: tuple[type[BaseException], ...]
) -> Callable[..., Any]:
    @wraps(trace)
    def answer(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            return _ending_ignored(trace(uuid, args, kwargs, request), task, uuid, request)
        except Reject:  # from a handler or Celery itself; the pool reports it
            raise
        except BaseException as error:
            if is_from_outside(error, uuid):
                raise
            failure = as_failure(error, task.name, uuid, "")
            if failure is error and isinstance(error, hands_on):
                raise
            if failure is error:  # Celery has reported it, or failed to
                return trace_ok_t(
                    report_internal_error(task, failure), TraceInfo(states.FAILURE, failure), 0.0, None
                )
            failure.__cause__ = error
            return _failed(task, failure, Context(request or {}, args=args, kwargs=kwargs, called_directly=False))

    return answer


def _ending_ignored(outcome: Any, task: Task, uuid: str, request: Any) -> Any:
    """Return an outcome; if it is `Ignore`, end the task's chord, which Celery would leave waiting."""
    info = outcome.info
    if info and info.state == states.IGNORED and not isinstance(info.retval, Replaced):
        with contained("%s[%s]: ending its chord", task.name, uuid):
            task.backend.end_ignored(Context(request or {}, id=uuid), info.retval)
    return outcome


def _failed(task: Task, failure: Exception, request: Context) -> Any:
    """Report a failure as Celery's tracer does, and return it."""
    info = TraceInfo(states.FAILURE, failure)
    report = ExceptionInfo((type(failure), failure, failure.__traceback__))
    with contained("%s[%s]: reporting its failure", task.name, request.id):
        report = info.handle_error_state(task, request, eager=False)
    return trace_ok_t(report, info, 0.0, None)


@cache
def _failing(target: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function of Celery that a slot runs, which parses a message and calls the tracer."""

    @wraps(target)
    def run(task: str, uuid: str, *args: Any, **options: Any) -> Any:
        try:
            return target(task, uuid, *args, **options)
        except BaseException as error:
            if is_from_outside(error, uuid):
                raise
            failure = as_failure(error, task, uuid, "")
            return True, ExceptionInfo((type(failure), failure, error.__traceback__)), 0.0

    return run
