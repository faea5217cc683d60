"""A signature, looked at as the call that it asks for: what it has in common with others, and what is its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import celery
from celery.app.routes import MapRoute
from celery.canvas import Signature

from broker_app.errors import CallError
from broker_app.queues import NameRouter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

_OWN = frozenset({"task_id", "countdown", "eta", "expires"})
"""Options that differ from call to call."""

_PLAIN = frozenset({str, int, bool, float, type(None), datetime})
"""Types of options that are compared by their value."""

_NEVER_ALIKE = frozenset(
    {"argsrepr", "kwargsrepr", "compression", "producer", "publisher", "connection", "root_id"}
)
_LONGEST_ID = 63
"""Characters: an id that is certainly an AMQP short string (255 bytes) is not measured."""
_LONGEST_EXPIRY_SECONDS = 1e9


@dataclass(slots=True)
class BulkCall:
    """One call.

    Attributes:
        key: The same for all calls whose messages differ only in what stands below; None if there are none.
        task: The task's name.
        args: Positional arguments.
        kwargs: Named arguments.
        serializer: Of the body.
        check: Celery's check of the arguments, None if it is off.
        task_id: None for a new one.
        countdown: Seconds from now.
        eta: The moment instead.
        expires: Seconds from now; None for another form, or never.
    """

    key: Any
    task: str
    args: Any
    kwargs: Any
    serializer: str
    check: Callable[..., Any] | None
    task_id: str | None = None
    countdown: float | None = None
    eta: datetime | str | None = None
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """What a task's definition says of its calls.

    Attributes:
        is_ours: Whether Celery's own `apply_async` publishes it.
        is_alike: Whether its messages follow from its options alone.
        check: Celery's check of the arguments.
        options: Of the task itself; a call's win over them.
    """

    is_ours: bool = True
    is_alike: bool = True
    check: Callable[..., Any] | None = None
    options: Mapping[str, Any] | None = None


class CallClassifier:
    """Tells calls that are alike.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._tasks: dict[str, _Task] = {}
        conf = app.conf
        self._serializer: str = conf.task_serializer
        self._is_eager: bool = conf.task_always_eager
        self._is_alike = (
            not (conf.task_compression or conf.task_send_sent_event)
            and conf.task_protocol == 2  # noqa: PLR2004 - Celery's number of the message's form
            and all(_looks_at_names_only(router) for router in app.amqp.routes)
        )

    def call(self, signature: Signature) -> BulkCall | None:
        """Return the call, or None for one that is published in its own way.

        Raises:
            CallError: The task is another app's.
        """
        if type(signature) is not Signature or signature.get("subtask_type") or self._is_eager:
            return None
        name, options = signature["task"], signature["options"]
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = self._look_at(signature)
        if not task.is_ours:
            return None
        args, kwargs = signature["args"] or (), signature["kwargs"] or {}
        expires = options.get("expires", task.options.get("expires") if task.options else None)
        key = self._key(name, task, options, args, kwargs, expires)
        own = (options.get("task_id"), options.get("countdown"), options.get("eta"))
        serializer = options.get("serializer") or (task.options or {}).get("serializer") or self._serializer
        return BulkCall(
            key, name, args, kwargs, serializer, task.check, *own, expires if _is_seconds(expires) else None
        )

    def _look_at(self, signature: Signature) -> _Task:
        try:
            task = signature.type
        except KeyError:  # only the workers know it
            return _Task(is_alike=self._is_alike)
        if task.app is not self._app:
            raise CallError(
                f"task {task.name!r} belongs to another app, {task.app.main!r}: publish it with that one"
            )
        kind = type(task)
        return _Task(
            is_ours=kind.apply_async is celery.Task.apply_async,
            is_alike=self._is_alike
            and kind.shadow_name is celery.Task.shadow_name
            and getattr(task, "_dump_pydantic_arguments", None) is None
            and not (task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit),
            check=getattr(task, "__header__", None) if task.typing else None,
            options={name: value for name, value in task._get_exec_options().items() if value is not None},  # noqa: SLF001 - as `send_task`
        )

    def _key(self, name: str, task: _Task, options: Any, args: Any, kwargs: Any, expires: Any) -> Any:
        """Return what makes two calls alike, None for a call like no other."""
        if not task.is_alike or type(args) not in (tuple, list) or type(kwargs) is not dict:
            return None
        if not options:
            return name
        if not options.keys() <= _OWN:
            rest = [(option, value, type(value)) for option, value in options.items() if option not in _OWN]
            if any(kind not in _PLAIN or option in _NEVER_ALIKE for option, _, kind in rest):
                return None
        else:
            rest = []
        return _own_key(name, options, rest, expires)


def _own_key(name: str, options: Any, rest: list[Any], expires: Any) -> Any:
    """Return the key of a call with options, None if what is its own needs Celery's eye."""
    task_id = options.get("task_id")
    if task_id is not None and not (type(task_id) is str and 0 < len(task_id) <= _LONGEST_ID):
        return None
    if expires is None:
        return (name, *rest)
    if options.get("countdown") is not None or options.get("eta") is not None:
        return None  # it is compared with the moment that the task is due
    if _is_seconds(expires):
        return (name, *rest, "seconds")
    return (name, *rest, expires) if type(expires) in _PLAIN else None


def _is_seconds(expires: Any) -> bool:
    return type(expires) in (int, float) and 0 <= expires < _LONGEST_EXPIRY_SECONDS


def _looks_at_names_only(router: Any) -> bool:
    """Return whether a router knows a task by its name alone: ours, and Celery's own of a table."""
    return isinstance(router, (MapRoute, NameRouter))
