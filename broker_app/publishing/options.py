"""Call options: refuses misspelt names and values of a wrong type, before anything is published."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Task

from broker_app.errors import CallError, shortened
from broker_app.publishing.validation import MAX_RETRIES, are_tasks, is_count, is_limit, is_task

if TYPE_CHECKING:
    from collections.abc import Callable

    _Check = Callable[[Any], bool]

_CELERYS = frozenset(
    {
        *("add_to_parent", "app_id", "args", "argsrepr", "chain", "chord", "cluster_id", "compression"),
        *("confirm_timeout", "connection", "content_encoding", "content_type", "correlation_id", "countdown"),
        *("declare", "delivery_mode", "eta", "event_dispatcher", "exchange", "exchange_type", "expiration"),
        *("expires", "group_id", "group_index", "headers", "ignore_result", "immediate", "kwargs"),
        *("kwargsrepr", "link", "link_error", "mandatory", "message_id", "now", "origin", "parent_id"),
        *("priority", "producer", "publisher", "queue", "replaced_task_nesting", "reply_to", "result_cls"),
        *("retries", "retry", "retry_policy", "root_id", "route_name", "router", "routing_key", "serializer"),
        *("shadow", "soft_time_limit", "stamped_headers", "task_id", "task_type", "time_limit", "timeout"),
        *("timestamp", "timezone", "type", "user_id"),
    }
)
"""Options that Celery's `send_task`, its task messages, and kombu's ``Producer.publish`` know."""

_DELIVERY_MODES = (1, 2, "transient", "persistent")
"""kombu's. 1 and ``transient`` are accepted for Celery's sake; the message is persistent all the same."""

_CLOSE = 0.85
"""Similarity from which a name is a misspelt one: ``qeue`` has 0.89, ``parent`` and ``parent_id`` have 0.8."""

_SHORTEST_NAME = 4
"""Shorter names resemble too many words: ``meta`` and ``eta``."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _is_named(value: object) -> bool:
    return isinstance(value, str) or isinstance(getattr(value, "name", None), str)


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_linked(value: object) -> bool:
    return is_task(value) or are_tasks(value)


def _has(method: str) -> _Check:
    return lambda value: hasattr(value, method)


_KINDS: dict[str, tuple[str, _Check]] = {
    **dict.fromkeys(
        (
            *("task_id", "root_id", "parent_id", "group_id", "shadow", "reply_to", "correlation_id"),
            *("routing_key", "argsrepr", "kwargsrepr", "serializer", "compression", "origin"),
            *("app_id", "cluster_id", "message_id", "type", "user_id"),
        ),
        ("a text", _is_text),
    ),
    **dict.fromkeys(("time_limit", "soft_time_limit"), ("a number of seconds, at least 0", is_limit)),
    **dict.fromkeys(("group_index", "replaced_task_nesting", "timestamp"), ("a whole number", _is_whole)),
    "expiration": ("a number of seconds, at least 0", is_limit),
    "delivery_mode": ("2 or 'persistent', as every message is", lambda value: value in _DELIVERY_MODES),
    "result_cls": ("a class of results", callable),
    "retries": (f"a whole number from 0 to {MAX_RETRIES:,}", is_count),
    "headers": ("a dictionary whose keys are texts", _is_table),
    "retry_policy": ("a dictionary whose keys are texts", _is_table),
    "stamped_headers": ("a list of texts", _are_texts),
    "queue": ("a queue's name", _is_named),
    "exchange": ("an exchange's name", _is_named),
    "ignore_result": ("True or False", lambda value: isinstance(value, int)),
    "producer": ("a kombu producer", _has("publish")),
    "publisher": ("a kombu producer", _has("publish")),
    "connection": ("a kombu connection", _has("Producer")),
    "router": ("a router", _has("route")),
    **dict.fromkeys(("link", "link_error"), ("a signature or a list of them", _are_linked)),
    "chain": ("a list of signatures", are_tasks),
    "chord": ("a signature", is_task),
}
"""The expected value of each option. Queue names, priorities, delays and expiries have checks of their own."""


def check_options(task: str, options: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
    """Validate the options of a call, and those of the signatures that follow it: links, chain and chord.

    A retry repeats the options of a message that a worker has accepted; only their names are checked.

    Args:
        task: The task's name.
        options: The options of `send_task`.
        tasks: The known tasks by name. If a task's class has an `apply_async` of its own, which may read options
            of its own, names are not checked.

    Raises:
        CallError: An option has a misspelt name or a value of a wrong type.
    """
    if not isinstance(task, str):
        raise CallError(f"send_task: expected a task's name, got {shortened(repr(task))}; pass its `name`")
    stamps = options.get("stamped_headers")
    check_option(task, "stamped_headers", stamps)
    if _is_celerys(options.get("task_type") or tasks.get(task)):
        _check_names(task, options.keys() - _CELERYS - set(stamps or ()))
    check_option(task, "retries", options.get("retries"))
    if options.get("retries"):
        return
    for option, value in options.items():
        check_option(task, option, value)
    if missing := [stamp for stamp in stamps or () if stamp not in options]:
        raise CallError(f"task {task}: stamped_headers: expected a value for {missing[0]!r}; pass {missing[0]}=…")
    for follower in _followers(options):
        check_options(follower["task"], follower.get("options") or {}, tasks)


def check_option(task: str, option: str, value: object) -> None:
    """Validate the value of one option; None is always valid.

    Raises:
        CallError: It has a wrong type.
    """
    expected, is_valid = _KINDS.get(option, _ANYTHING)
    if value is not None and not is_valid(value):
        raise CallError(f"task {task}: {option}: expected {expected}, got {shortened(repr(value))}")


def _followers(options: Mapping[str, Any]) -> list[Any]:
    """Return the signatures in valid options."""
    lists = (options.get(name) or () for name in ("link", "link_error", "chain", "chord"))
    return [one for given in lists for one in ([given] if isinstance(given, dict) else given)]


def _check_names(task: str, unknown: Iterable[str]) -> None:
    for option in sorted(unknown):
        known = [name for name in _CELERYS if len(name) >= _SHORTEST_NAME]
        if close := difflib.get_close_matches(option, known, n=1, cutoff=_CLOSE):
            raise CallError(
                f"task {task}: unknown option {option!r} (did you mean {close[0]!r}?); nothing would read it"
            )


def _is_celerys(task_type: Any) -> bool:
    """Return whether no `apply_async` but Celery's sees the options of a task."""
    own = [cls for cls in type(task_type).__mro__ if "apply_async" in vars(cls)]
    return task_type is None or own[:1] == [Task]


_ANYTHING: tuple[str, _Check] = ("anything", lambda _: True)
