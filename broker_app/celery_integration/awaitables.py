"""Awaitable methods: what coroutines call on Celery's tasks, signatures and results.

Canvases and results are made of Celery's own classes, which users import from Celery. So the methods are added
there: `adelay` and `aapply_async` for tasks and signatures, `aget` for results. The names are those of the asyncio
forks of Celery. A class that defines such a method itself keeps its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app import task as celery_task
from celery.app.task import Task
from celery.canvas import Signature
from celery.result import AsyncResult, EagerResult, ResultSet
from celery.utils import uuid

from broker_app.publishing.awaited import awaited
from broker_app.results.awaited import aget, aget_all, aget_eager

if TYPE_CHECKING:
    from collections.abc import Callable


def add_awaitables() -> None:
    """Add the awaitable methods to Celery's classes."""
    for cls, methods in _METHODS.items():
        for name, method in methods.items():
            if name not in vars(cls):
                setattr(cls, name, method)


async def _aapply_async_task(
    self: Any, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
) -> AsyncResult:
    """Publish the task, like ``apply_async``, with the same options and errors.

    Raises:
        CancelledError: The await was cancelled. It has the attributes ``task_id`` and ``maybe_taken``: False if
            the task was not published.
    """
    task_id = uuid() if task_id is None else task_id
    call = partial(self.apply_async, args, kwargs, task_id=task_id, **options)
    can_share = getattr(self.app, "can_share_call", None)  # a BrokerApp's
    is_shared = can_share is not None and _has_celerys_call(self) and can_share(options)
    return await awaited(self.app, call, self.name, task_id, is_shared=is_shared)


def _has_celerys_call(task: Any) -> bool:
    """Return whether neither the task's class nor an instrumentation has replaced Celery's ``apply_async``."""
    code = getattr(type(task).apply_async, "__code__", None)
    return code is not None and code.co_filename == celery_task.__file__


async def _adelay(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Publish with these arguments, like ``delay``."""
    return await self.aapply_async(args, kwargs)


async def _aapply_async_signature(self: Any, *args: Any, **options: Any) -> Any:
    """Publish the signature or canvas, like ``apply_async``, with the same options and errors.

    Raises:
        CancelledError: As for a task. For a canvas, ``task_id`` is None, and ``maybe_taken`` may concern a part.
    """
    task_id = None
    if type(self) is Signature:
        task_id = options.get("task_id") or self.options.get("task_id") or uuid()
        options["task_id"] = task_id
    call: Callable[[], Any] = partial(self.apply_async, *args, **options)
    return await awaited(self.app, call, str(self.task), task_id)


_METHODS: dict[type, dict[str, Any]] = {
    Task: {"adelay": _adelay, "aapply_async": _aapply_async_task},
    Signature: {"adelay": _adelay, "aapply_async": _aapply_async_signature},
    AsyncResult: {"aget": aget},
    EagerResult: {"aget": aget_eager},
    ResultSet: {"aget": aget_all},
}
"""The methods, by class."""
