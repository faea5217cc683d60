"""Shared calls: calls that coroutines make at the same time are published together, through one pipeline."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import defaultdict, deque
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker_app.publishing.call_start import set_call_start
from broker_app.publishing.pipeline import Pipeline, use_pipeline
from broker_app.wire.connection import pooled

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from contextvars import Context

    from celery import Celery

    from broker_app.publishing.pipeline import SentCall

MAX_CALLS = 64
"""Calls that are sent before their answers are awaited together."""

FEW_CALLS = 8
"""Number of calls from which it shows whether they are plain."""

APART_SECONDS = 1.0
"""Time for which calls are made in threads of their own, after most were not plain."""


@dataclass(eq=False, slots=True)
class _Call:
    make: Callable[[], Any]
    work: Future[Any]
    waiter: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    context: Context = field(default_factory=copy_context)
    asked_at: float = field(default_factory=time.monotonic)
    value: Any = None
    error: BaseException | None = None
    sent: SentCall | None = None

    def is_begun(self) -> bool:
        """Return whether to make the call: it was not cancelled, and cannot be from now on."""
        return not self.waiter.cancelled() and self.work.set_running_or_notify_cancel()

    def begin(self, pipeline: Pipeline, succeeded_at: float) -> None:
        """Make the call, in its context."""
        use_pipeline(pipeline)
        set_call_start(max(self.asked_at, succeeded_at))
        try:
            self.value = self.make()
        except BaseException as error:  # noqa: BLE001 - raised in the coroutine
            self.error = error
        self.sent = pipeline.take_last()

    def end(self) -> bool:
        """Set the outcome; return whether it is a success."""
        error = self.error if self.sent is None else self.sent.error
        if error is None:
            self.work.set_result(self.value)
        else:
            self.work.set_exception(error)
        return error is None


class SharedCalls:
    """Calls that wait for a pipeline.

    Args:
        pool: The threads that run pipelines.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._is_running = False
        self._succeeded_at = -math.inf
        self._apart_until = -math.inf

    @property
    def is_apart(self) -> bool:
        """True if calls are to be made in separate threads."""
        return time.monotonic() < self._apart_until

    def add(self, app: Celery, make: Callable[[], Any], work: Future[Any]) -> asyncio.Future[None]:
        """Make a call soon, and return what is done when its outcome is set.

        The loop first runs what else is ready, which may make more calls.
        """
        loop = asyncio.get_running_loop()
        call = _Call(make, work, loop.create_future(), loop)
        self._waiting.append(call)
        loop.call_soon(self._start, app)
        return call.waiter

    def _start(self, app: Celery) -> None:
        """Run a pipeline if calls wait and none runs."""
        with self._lock:
            is_new = bool(self._waiting) and not self._is_running
            self._is_running = self._is_running or is_new
        if is_new:
            self._pool.submit(self._run, app)

    def _run(self, app: Celery) -> None:
        while calls := self._next_calls():
            begun = [call for call in calls if call.is_begun()]
            try:
                self._make(app, begun)
            except BaseException as error:  # noqa: BLE001 - raised in the coroutines
                for call in begun:
                    call.error, call.sent = error, None
            successes = sum([call.end() for call in begun])
            if successes:
                self._succeeded_at = time.monotonic()
            _wake(begun)

    def _next_calls(self) -> list[_Call]:
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(MAX_CALLS, len(self._waiting)))]
            self._is_running = bool(calls)
            return calls

    def _make(self, app: Celery, calls: list[_Call]) -> None:
        deadline = time.monotonic() + app.settings.publish.timeout_seconds
        with pooled(app.pool, deadline) as connection:
            pipeline = Pipeline(app, connection)
            for call in calls:
                call.context.run(call.begin, pipeline, self._succeeded_at)
            pipeline.settle()
        if len(calls) >= FEW_CALLS and pipeline.plain * 2 < len(calls):
            self._apart_until = time.monotonic() + APART_SECONDS


def _wake(calls: list[_Call]) -> None:
    """Wake the coroutines that await calls; each loop is notified once."""
    waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for call in calls:
        waiters[call.loop].append(call.waiter)
    for loop, some in waiters.items():
        try:
            loop.call_soon_threadsafe(_end_all, some)
        except RuntimeError:
            if not loop.is_closed():
                raise


def _end_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
