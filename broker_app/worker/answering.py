"""A task always answers, whatever happens around its body.

Celery's tracer lets an exception through that is raised while it handles another: the result store, or the broker
of an errback, fails while a failure is told. Prefork hands it on as a failure. Threads and greenlets drop it: the
message would stay unsettled in the worker, which takes one less from then on, until it takes none.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.trace import TraceInfo, report_internal_error, trace_ok_t
from celery.exceptions import Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker_app.worker.task import Task


def let_answer(tasks: Iterable[Task]) -> None:
    """Wrap the tracers of tasks, which Celery has just built."""
    for task in tasks:
        task.__trace__ = _answering(task, task.__trace__)


def _answering(task: Task, trace: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(trace)
    def answer(*args: Any, **options: Any) -> Any:
        try:
            return trace(*args, **options)
        except (Reject, MemoryError):  # Celery's own ways
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong beside the task
            return trace_ok_t(report_internal_error(task, error), TraceInfo(states.FAILURE, error), 0.0, None)

    return answer
