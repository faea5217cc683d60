"""Execution context: Celery's ``self.request`` and ``current_task`` in a coroutine and in what it starts.

Celery keeps both on stacks, one for each thread or greenlet, but all coroutines of a process share one thread. So
in a coroutine, the stacks are keyed by its execution. A context variable carries the execution into the asyncio
tasks that the coroutine creates, and into ``asyncio.to_thread``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack
from celery.utils.threads import get_ident

if TYPE_CHECKING:
    from celery import Task
    from celery.app.task import Context

CURRENT: ContextVar[Any] = ContextVar("broker_app_execution", default=None)
"""The execution that the running code belongs to; None outside coroutines of tasks."""


def enter(execution: object, task: Task, request: Context) -> None:
    """Make the current context the one of an execution, in which a task handles a request."""
    CURRENT.set(execution)
    for stack, value in ((_task_stack, task), (task.request_stack, request)):
        stack.__ident_func__ = _identity
        stack.push(value)


def leave(task: Task) -> None:
    """Forget the task and its request; what still runs in the current context has no request from now on."""
    task.request_stack.pop()
    _task_stack.pop()


def _identity() -> Any:
    """Return the key of the stacks: the execution, or else what Celery uses."""
    return CURRENT.get() or get_ident()
