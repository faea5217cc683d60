"""Call classification: separates the options that similar calls share from the values of a single call."""

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
"""Options that may differ between calls that share a template."""

_PLAIN = frozenset({str, int, bool, float, type(None), datetime})
"""Option types that are compared by value."""

_NEVER_ALIKE = frozenset(
    {"argsrepr", "kwargsrepr", "compression", "producer", "publisher", "connection", "root_id"}
)
LONGEST_ID = 63
"""In characters: an id up to this length always fits an AMQP short string (255 bytes)."""
_LONGEST_EXPIRY_SECONDS = 1e9


@dataclass(slots=True)
class BulkCall:
    """One call.

    Attributes:
        key: Equal for calls whose messages differ only in the attributes below; None if no template can be shared.
        task: The task's name.
        args: Positional arguments.
        kwargs: Keyword arguments.
        serializer: The serializer of the body.
        check: Celery's check of the arguments, None if it is off.
        task_id: None generates a new id.
        countdown: Seconds from now.
        eta: The due time, as an alternative to ``countdown``.
        expires: Seconds from now; None if it never expires or is not given as a number.
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
    """Properties of a task's definition that apply to all its calls.

    Attributes:
        is_ours: Whether Celery's own `apply_async` publishes it.
        is_alike: Whether its messages depend on nothing but its options.
        check: Celery's check of the arguments.
        options: The task's own options; those of a call take precedence.
    """

    is_ours: bool = True
    is_alike: bool = True
    check: Callable[..., Any] | None = None
    options: Mapping[str, Any] | None = None


class CallClassifier:
    """Finds calls that can share a template.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._tasks: dict[str, _Task] = {}
        conf = app.conf
        self._serializer: str = conf.task_serializer
        self._is_eager: bool = conf.task_always_eager
        self._is_alike = is_alike(app)

    def call(self, signature: Signature) -> BulkCall | None:
        """Return the call, or None if its own `apply_async` must publish it.

        Raises:
            CallError: The task belongs to another app.
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
            key, name, args, kwargs, serializer, task.check, *own, expires if is_seconds(expires) else None
        )

    def _look_at(self, signature: Signature) -> _Task:
        try:
            task = signature.type
        except KeyError:  # not registered here, only in the workers
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
        """Return a key that is equal for calls that can share a template, None if there is no such call."""
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


def is_alike(app: Celery) -> bool:
    """Return whether an app's messages depend on nothing but the options of their calls."""
    conf = app.conf
    return (
        not (conf.task_compression or conf.task_send_sent_event)
        and conf.task_protocol == 2  # noqa: PLR2004 - Celery's message protocol version
        and all(_looks_at_names_only(router) for router in app.amqp.router.routes)
    )


def _own_key(name: str, options: Any, rest: list[Any], expires: Any) -> Any:
    """Return the key of a call with options, None if Celery must process its options."""
    task_id = options.get("task_id")
    if task_id is not None and not (type(task_id) is str and 0 < len(task_id) <= LONGEST_ID):
        return None
    if expires is None:
        return (name, *rest)
    if options.get("countdown") is not None or options.get("eta") is not None:
        return None  # must be compared with the time the task is due
    if is_seconds(expires):
        return (name, *rest, "seconds")
    return (name, *rest, expires) if type(expires) in _PLAIN else None


def is_seconds(expires: Any) -> bool:
    """Return whether an expiry counts from the call."""
    return type(expires) in (int, float) and 0 <= expires < _LONGEST_EXPIRY_SECONDS


def _looks_at_names_only(router: Any) -> bool:
    """Return whether a router looks only at the task's name, as ours and Celery's `MapRoute` do."""
    return isinstance(router, (MapRoute, NameRouter))
