"""Coroutine task: runs the body of an ``async def`` task where Celery expects that of a plain function."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery._state import get_current_task
from celery.app.task import Context
from celery.exceptions import Reject

from broker_app.coroutines.context import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.celery_integration.task import Task

OWN_FUNCTION = "_orig_run"
"""Attribute in which Celery keeps the function of a task with ``autoretry_for``."""

_FAILED = "_broker_app_failed"

_DEFERRED = "_broker_app_deferred"

_MAPS = ("celery.map", "celery.starmap")


def run_body(task: Task, request: Context, body: Callable[[], Any]) -> Any:
    """Run the body of an ``async def`` task to its end, and return its result."""
    answer = body()
    if not inspect.iscoroutine(answer):  # the task's class has a `__call__` that ran it
        return answer
    try:
        value = _run_to_end(task, request, answer)
    except Exception:
        _publish_deferred(request)
        raise
    _publish_deferred(request)
    return value


def defer(request: Context, publish: Callable[[], object]) -> bool:
    """Publish in the slot once the coroutine has ended, since publishing blocks, and would block the loop.

    Args:
        request: The request whose coroutine publishes.
        publish: Publishes.

    Returns:
        Whether the caller is a coroutine; otherwise it must publish itself.
    """
    if request.is_eager or CURRENT.get() is None:
        return False
    vars(request).setdefault(_DEFERRED, []).append(publish)
    return True


def deferring(signature: Any, request: Context) -> Any:
    """Return the signature of a retry; one that `defer` publishes, if the caller is a coroutine."""

    def apply_async() -> None:
        del signature.apply_async
        if not defer(request, partial(_publish_retry, signature)):
            signature.apply_async()

    signature.apply_async = apply_async
    return signature


def _publish_deferred(request: Context) -> None:
    for publish in vars(request).pop(_DEFERRED, ()):
        publish()


def _publish_retry(signature: Any) -> None:
    """Publish a retry as Celery does, which rejects the message if that fails."""
    try:
        signature.apply_async()
    except Exception as error:
        raise Reject(error, requeue=False) from error


def _run_to_end(task: Task, request: Context, coroutine: Any) -> Any:
    """Run a coroutine and Celery's wrapper for ``autoretry_for``, which has returned when the coroutine fails.

    So it is called once more then, with a function that raises the error.
    """
    try:
        return _dumped(task, _run(task, request, coroutine))
    except Exception as error:
        if OWN_FUNCTION not in vars(task):
            raise
        setattr(request, _FAILED, error)
    try:
        return task.run()
    finally:
        delattr(request, _FAILED)


def own_function(task: Task) -> Any:
    """Return a task's function, or one that raises the error of the coroutine that has just failed.

    Raises:
        AttributeError: The task has no ``autoretry_for``.
    """
    request = task.request_stack.top if task.request_stack is not None else None
    error = getattr(request, _FAILED, None)
    if error is not None:
        return partial(_raise, error)
    try:
        return vars(task)[OWN_FUNCTION]
    except KeyError:
        raise AttributeError(OWN_FUNCTION) from None


def run_for_celery(task: Task, answer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a direct call returned; run a coroutine if Celery itself called, which would drop it.

    Celery calls tasks directly for ``map`` and ``starmap``, and errbacks with the request, error and traceback.
    """
    if not inspect.iscoroutine(answer):
        return answer
    caller = get_current_task()
    is_errback = bool(args) and isinstance(args[0], Context)
    if not is_errback and (caller is None or caller.name not in _MAPS):
        return answer
    return _run(task, Context(args=args, kwargs=kwargs), answer)


def _run(task: Task, request: Context, coroutine: Any) -> Any:
    from broker_app.coroutines.execution import run_coroutine  # noqa: PLC0415 - asyncio only where it is used

    return run_coroutine(coroutine, task, request)


def _dumped(task: Task, value: Any) -> Any:
    """Return a pydantic model as Celery's wrapper for ``pydantic=True`` returns that of a plain function."""
    if getattr(task, "_dump_pydantic_arguments", None) is None or not hasattr(value, "model_dump"):
        return value
    wrapper = vars(task).get(OWN_FUNCTION, task.run)
    return value.model_dump(**inspect.getclosurevars(wrapper).nonlocals["dump_kwargs"])


def _raise(error: Exception, *_: Any, **__: Any) -> NoReturn:
    raise error
