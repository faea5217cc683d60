"""A task always answers, whatever is raised in it and around its body.

Celery's tracer lets through what is no Exception (SystemExit, asyncio.CancelledError), and an exception that is
raised while it handles another: the result store, or the broker of an errback, fails while a failure is told.
Prefork hands these on as failures, or ends its process. Threads and greenlets drop them: the message would stay
unsettled in the worker, which takes one less from then on, until it takes none.
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

from broker_app.errors import OutOfMemory, UncaughtBaseException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from celery import Celery

    from broker_app.celery_integration.task import Task

ENDS_OF_WORKER = (WorkerShutdown, WorkerTerminate)
"""By these Celery ends a worker, wherever they are raised."""

logger = logging.getLogger(__name__)


def let_answer(tasks: Iterable[Task], *, hands_on: tuple[type[BaseException], ...] = ()) -> None:
    """Wrap the tracers of tasks, which Celery has just built.

    Args:
        tasks: The tasks.
        hands_on: What the caller of the tracers takes for the answer itself.
    """
    for task in tasks:
        task.__trace__ = _answering(task, task.__trace__, hands_on)


def let_processes_answer(app: Celery) -> None:
    """Do so in each process of a pool, where Celery builds the tracers anew; it hands exceptions on by itself."""

    def begin(**_: Any) -> None:
        let_answer(app.tasks.values(), hands_on=(Exception,))

    signals.worker_process_init.connect(begin, weak=False, dispatch_uid=let_processes_answer)


def let_slots_answer(pool: Any) -> None:
    """Let a pool without processes hand on as a failure what is raised before a task's tracer, or past it.

    Args:
        pool: Celery's; one with processes does so itself.
    """
    if not (pool.body_can_be_buffer or pool.is_green):
        return
    apply = pool.on_apply

    def on_apply(target: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return apply(_failing(target), *args, **options)

    pool.on_apply = on_apply


def is_from_outside(error: BaseException, task_id: object) -> bool:
    """Return whether an exception was raised in a task to end it: by its worker, a signal, or a revocation."""
    if isinstance(error, ENDS_OF_WORKER) or terminate_handler_fired():
        return True
    return type(error).__name__ == "GreenletExit" and task_id in state.revoked


def as_failure(error: BaseException, task: str, task_id: str, queue: str) -> Exception:
    """Return what fails a task that raised something that callers, and Celery, would not take for an error."""
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        return error
    if isinstance(error, MemoryError):
        failure: Exception = OutOfMemory(task, task_id, queue, f"it ran out of memory: {error}")
    else:
        failure = UncaughtBaseException(task, task_id, queue, f"it raised {type(error).__name__}: {error}")
    return failure.with_traceback(error.__traceback__)


@contextmanager
def contained(what: str, *arguments: object) -> Iterator[None]:
    """Log what is raised in a block, with what was being done, and go on behind it."""
    try:
        yield
    except ENDS_OF_WORKER:
        raise
    except BaseException:
        logger.exception(f"{what} failed", *arguments)  # noqa: G004 - the caller's words, not its values


def _answering(
    task: Task, trace: Callable[..., Any], hands_on: tuple[type[BaseException], ...]
) -> Callable[..., Any]:
    @wraps(trace)
    def answer(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            return trace(uuid, args, kwargs, request)
        except Reject:  # of a handler, or of Celery itself; the pool hands it on
            raise
        except BaseException as error:
            if is_from_outside(error, uuid):
                raise
            failure = as_failure(error, task.name, uuid, "")
            if failure is error and isinstance(error, hands_on):
                raise
            if failure is error:  # Celery has told it, or could not
                return trace_ok_t(
                    report_internal_error(task, failure), TraceInfo(states.FAILURE, failure), 0.0, None
                )
            failure.__cause__ = error
            return _failed(task, failure, Context(request or {}, args=args, kwargs=kwargs, called_directly=False))

    return answer


def _failed(task: Task, failure: Exception, request: Context) -> Any:
    """Tell a failure as Celery's tracer does, and answer with it."""
    info = TraceInfo(states.FAILURE, failure)
    report = ExceptionInfo((type(failure), failure, failure.__traceback__))
    with contained("%s[%s]: telling its failure", task.name, request.id):
        report = info.handle_error_state(task, request, eager=False)
    return trace_ok_t(report, info, 0.0, None)


@cache
def _failing(target: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a slot runs in place of Celery's function, which takes a message apart and calls the tracer."""

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
