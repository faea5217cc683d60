"""Task registry: adds our class in front of each task's own, and refuses tasks that no worker can run."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app import registry
from celery.app import task as celery_task
from celery.utils.threads import LocalStack, _FastLocalStack

from broker_app.celery_integration.task import Task, defines_call, in_front_of
from broker_app.errors import UnsupportedTask

if TYPE_CHECKING:
    from collections.abc import Callable


class TaskRegistry(registry.TaskRegistry):
    """Celery's registry, which every task is added to, however it is defined.

    Args:
        tasks: Tasks by their names.
    """

    def __init__(self, tasks: Any = ()) -> None:
        super().__init__()
        self.update(tasks)

    def __setitem__(self, name: str, task: Any) -> None:
        """Register a task, and add `Task` in front of its class.

        Raises:
            UnsupportedTask: No worker can run it.
        """
        if isinstance(task, celery_task.Task) and not isinstance(task, Task):
            _check_class(name, task)
            function = _function_of(task)
            check_function(name, function, lambda: type(task))
            is_async = "async" in (_kind_of(function), _kind_of(type(task).__call__))
            if is_async:
                _check_locals(name, function)
            task.__class__ = in_front_of(task, is_async=is_async)
        super().__setitem__(name, task)

    def update(self, tasks: Any = (), **named: Any) -> None:
        """Register several tasks, like `dict.update`."""
        for name, task in dict(tasks, **named).items():
            self[name] = task


def check_function(name: str, function: Any, cls: Callable[[], type]) -> None:
    """Refuse a function whose body does not run when the function is called.

    Args:
        name: The task's name.
        function: The task's function.
        cls: Returns the task's class. A class with its own ``__call__`` may iterate over a generator.

    Raises:
        UnsupportedTask: The function has a ``yield``.
    """
    kind = _kind_of(function)
    if kind not in _CURES or defines_call(cls()):
        return
    raise _refusal(name, _place_of(function), *_CURES[kind])


def check_lifespan(function: Any, earlier: Any) -> None:
    """Refuse a lifespan of the wrong kind, or a second one.

    Args:
        function: The function.
        earlier: That of the app's lifespan; None if it has none. The same function may come again, from a reload.

    Raises:
        UnsupportedTask: It cannot be the app's lifespan.
    """
    place, name = _place_of(function), getattr(function, "__qualname__", repr(function))
    kind = _kind_of(function)
    if kind in ("async", "generator"):
        got = "an async def without one" if kind == "async" else "a plain def with one"
        raise UnsupportedTask(
            f"lifespan {name} ({place}): expected an async def with one yield, or a function that returns an "
            f"async context manager, got {got}; open before the yield, close after it"
        )
    if earlier is not None and (name, place) != (getattr(earlier, "__qualname__", ""), _place_of(earlier)):
        raise UnsupportedTask(
            f"lifespan {name} ({place}): expected one for each app, got a second one after that of "
            f"{_place_of(earlier)}; open what both do in one function, and yield both"
        )


def _check_locals(name: str, function: Any) -> None:
    if _FastLocalStack is LocalStack:
        place, got = _place_of(function), "USE_FAST_LOCALS, with which self.request would be that of another task"
        raise _refusal(name, place, "Celery's own request stack for an async def", got, "unset USE_FAST_LOCALS")


def _check_class(name: str, task: celery_task.Task) -> None:
    cls = type(task)
    if (kind := _kind_of(cls.__call__)) in _CURES:
        raise _refusal(name, _place_of(cls.__call__), *_CURES[kind])
    for handler in (getattr(cls, handler) for handler in _HANDLERS):
        if _kind_of(handler) is not None:
            raise _refusal(name, _place_of(handler), *_ASYNC_HANDLER)
    if task.Strategy != celery_task.Task.Strategy:
        raise _refusal(
            name,
            f"class {cls.__module__}.{cls.__qualname__}",
            "a class with Celery's default Strategy",
            "one that bypasses the worker's delivery (as celery-batches does): no limits, metrics or dead letters",
            "publish one task per batch, with a list as its argument",
        )


def _refusal(name: str, place: str, expected: str, got: str, cure: str) -> UnsupportedTask:
    return UnsupportedTask(f"task {name} ({place}): expected {expected}, got {got}; {cure}")


def _function_of(task: Any) -> Any:
    """Return the function that the user wrote; Celery's wrappers for retries and pydantic are plain functions."""
    return getattr(task, "_decorated_fun", None) or getattr(task, "_orig_run", None) or task.run


def _kind_of(function: Any) -> str | None:
    """Return ``async``, ``async generator`` or ``generator``, or None for a plain function."""
    for one in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - the method itself
        if inspect.iscoroutinefunction(one):
            return "async"
        if inspect.isasyncgenfunction(one):
            return "async generator"
        if inspect.isgeneratorfunction(one):
            return "generator"
    return None


def _place_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


_CURES = {
    "async generator": (
        "a function",
        "an async def with a yield, whose body no worker would run",
        "return a list, or iterate over it in an async def without a yield",
    ),
    "generator": (
        "a plain function",
        "one with a yield, whose body no worker would run",
        "return a list, or iterate over it in a plain function",
    ),
}
"""The expected function, the refused one, and the cure."""

_HANDLERS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
"""Methods of a task that Celery calls."""

_ASYNC_HANDLER = ("a plain method", "async def, which Celery would not await", "write `def`")
