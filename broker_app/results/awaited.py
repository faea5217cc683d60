"""Awaited results: `aget` of Celery's results; waiting for one takes no thread."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.result import AsyncResult, EagerResult, ResultSet, assert_will_not_block

from broker_app.results.arrivals import Wait, arrivals_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

USUAL_INTERVAL_SECONDS = 0.5
"""Longest pause between two queries, as in Celery."""


async def aget(  # noqa: PLR0913, PLR0917 - as Celery's get
    self: AsyncResult,
    timeout: float | None = None,  # noqa: ASYNC109 - as Celery's get
    propagate: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    interval: float | None = None,
    no_ack: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    follow_parents: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    callback: Callable[[str, Any], object] | None = None,
    on_message: Callable[[Any], object] | None = None,
    on_interval: Callable[[], object] | None = None,
    disable_sync_subtasks: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
) -> Any:
    """Await a task's result, like ``get``, with the same arguments and errors.

    Raises:
        celery.exceptions.TimeoutError: The result is not ready after `timeout` seconds.
        Exception: That of the task, or of a parent in its chain, if `propagate` is set.
    """
    del no_ack
    if self.ignored:
        return None
    waits = _Waiting(timeout, interval, on_message, on_interval, disable_sync_subtasks)
    nodes = list(_parents_of(self)) if follow_parents and propagate else []
    parents = list(_members(reversed(nodes)))
    _raise_failure(parents)

    def _is_over() -> bool:
        return _is_cached(self) or any(map(_has_failed, parents))

    await _arrival([self, *parents], _is_over, waits)
    _raise_failure(parents)
    return self.maybe_throw(propagate=propagate, callback=callback)


async def aget_eager(self: EagerResult, *args: Any, **options: Any) -> Any:
    """Return an eager task's result, like ``get``; it never waits, so a task may await it."""
    return self.get(*args, **dict(options, disable_sync_subtasks=False))


async def aget_all(  # noqa: PLR0913, PLR0917 - as Celery's get
    self: ResultSet,
    timeout: float | None = None,  # noqa: ASYNC109 - as Celery's get
    propagate: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    interval: float | None = None,
    callback: Callable[[str, Any], object] | None = None,
    no_ack: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    on_message: Callable[[Any], object] | None = None,
    disable_sync_subtasks: bool = True,  # noqa: FBT001, FBT002 - as Celery's get
    on_interval: Callable[[], object] | None = None,
) -> list[Any] | None:
    """Await the results of all members, like ``get``, with the same arguments and errors.

    Returns:
        The results in the order of the members; None if there is a callback.

    Raises:
        celery.exceptions.TimeoutError: They are not all ready after `timeout` seconds.
        Exception: That of the first member to fail, if `propagate` is set.
    """
    del no_ack
    waits = _Waiting(timeout, interval, on_message, on_interval, disable_sync_subtasks)
    members = [member for member in _members(self.results) if not member.ignored]

    def _is_over() -> bool:
        return all(map(_is_cached, members)) or (propagate and any(map(_has_failed, members)))

    await _arrival(members, _is_over, waits)
    if propagate:
        _raise_failure(members)
    values = [_value_of(one) for one in self.results]
    if callback is None:
        return values
    for one, value in zip(self.results, values, strict=True):
        callback(one.id, value)
    return None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Arguments of `get` that say how to wait."""

    timeout: float | None
    interval: float | None
    on_message: Callable[[Any], object] | None
    on_interval: Callable[[], object] | None
    disable_sync_subtasks: bool


async def _arrival(results: Sequence[AsyncResult], is_over: Callable[[], bool], how: _Waiting) -> None:
    """Wait for results, and keep each one's metadata in it, until it is over.

    Raises:
        RuntimeError: A task waits, without the consent of the caller.
        ResultTimeoutError: It is not over at the deadline.
        Exception: That of the store.
    """
    left = [result for result in results if not _is_cached(result)]
    if is_over():
        return
    if how.disable_sync_subtasks:
        assert_will_not_block()
    deadline = math.inf if how.timeout is None else time.monotonic() + how.timeout
    pause = USUAL_INTERVAL_SECONDS if how.interval is None else how.interval
    wait = Wait(left[0].backend, {result.id for result in left}, deadline, pause)
    arrivals = arrivals_of(left[0].app, left[0].backend)
    arrivals.add(wait)
    try:
        while True:
            metas = await wait.arrived(None if how.on_interval is None else pause)
            _keep(metas, left, how.on_message)
            if is_over():
                return
            if wait.is_over:
                raise ResultTimeoutError("The operation timed out.")
            if how.on_interval is not None:
                how.on_interval()
    finally:
        arrivals.discard(wait)


def _keep(metas: Any, results: Iterable[AsyncResult], on_message: Callable[[Any], object] | None) -> None:
    for meta in metas.values():
        if on_message is not None:
            on_message(meta)
    for result in results:
        if result.id in metas and not _is_cached(result):
            result._maybe_set_cache(metas[result.id])  # noqa: SLF001 - as Celery's backends do


def _parents_of(result: Any) -> Iterator[Any]:
    while (result := result.parent) is not None:
        yield result


def _members(results: Iterable[Any]) -> Iterator[AsyncResult]:
    """Yield results, and the members of groups among them."""
    for result in results:
        if isinstance(result, ResultSet):
            yield from _members(result.results)
        else:
            yield result


def _is_cached(result: AsyncResult) -> bool:
    return bool(result._cache)  # noqa: SLF001 - as Celery's `get`


def _has_failed(result: AsyncResult) -> bool:
    return _is_cached(result) and result.state in states.PROPAGATE_STATES


def _raise_failure(results: Iterable[AsyncResult]) -> None:
    for result in results:
        if _has_failed(result):
            _value_of(result, propagate=True)


def _value_of(result: Any, *, propagate: bool = False) -> Any:
    if isinstance(result, ResultSet):
        return [_value_of(one, propagate=propagate) for one in result.results]
    if result.ignored:
        return None
    if isinstance(result, EagerResult):
        return result.get(propagate=propagate, disable_sync_subtasks=False)
    return result.maybe_throw(propagate=propagate)
