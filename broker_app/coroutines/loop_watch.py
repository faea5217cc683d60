"""Loop watch: measures how late the process's event loop runs what is due, and logs what blocks it.

A thread asks the loop for an answer twice a second. That costs nothing per task, and needs no answer to know that
the loop is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from broker_app.coroutines.elsewhere import all_bodies
from broker_app.coroutines.loop import shared_thread

if TYPE_CHECKING:
    from types import FrameType

    from broker_app.coroutines.elsewhere import Elsewhere
    from broker_app.coroutines.loop import LoopThread

INTERVAL_SECONDS = 0.5
"""Interval between questions to the loop."""

BLOCKED_SECONDS = 1.0
"""Time without an answer after which the loop counts as blocked."""

WINDOW_SECONDS = 30.0
"""Time for which the greatest lag is shown: metrics are read less often than they are measured."""

logger = logging.getLogger(__name__)


class LoopWatch:
    """Watches the loop that the coroutines of a process share, from the time it is made."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._asked_at: float | None = None
        self._lags: tuple[float, float] | None = None  # the greatest of the last window, and of the current one
        self._window_ends = 0.0

    def start(self) -> None:
        """Start watching."""
        threading.Thread(target=self._run, name="loop-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching soon."""
        self._closed.set()

    @property
    def blocked_since(self) -> float | None:
        """When the loop was blocked, by time.monotonic; None if it is not."""
        asked_at = self._asked_at
        is_blocked = asked_at is not None and time.monotonic() - asked_at >= BLOCKED_SECONDS
        return asked_at if is_blocked else None

    @property
    def lag_seconds(self) -> float | None:
        """The greatest lag of the last half minute or more; None before the loop's first answer."""
        since = self.blocked_since
        blocked = () if since is None else (time.monotonic() - since,)
        return max((*(self._lags or ()), *blocked), default=None)

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL_SECONDS):
            thread = shared_thread()
            if thread is None:
                continue
            try:
                self._ask(thread)
            except RuntimeError as error:  # the loop is closed, as the process ends
                logger.debug("the event loop of coroutines could not be asked: %s", error)
            finally:
                self._asked_at = None

    def _ask(self, thread: LoopThread) -> None:
        answered = threading.Event()
        asked_at = time.monotonic()
        thread.loop.call_soon_threadsafe(answered.set)
        self._asked_at = asked_at
        is_blocked = not answered.wait(BLOCKED_SECONDS)
        if is_blocked:
            logger.warning(
                "the event loop of coroutines has been blocked for %g s by %s", BLOCKED_SECONDS, _what_runs(thread)
            )
            answered.wait()
        lag = time.monotonic() - asked_at
        self._record(lag)
        if is_blocked:
            logger.warning("the event loop of coroutines runs again; it was blocked for %.1f s", lag)

    def _record(self, lag: float) -> None:
        now = time.monotonic()
        before, current = self._lags or (0.0, 0.0)
        if now >= self._window_ends:
            self._window_ends = now + WINDOW_SECONDS
            before, current = current, 0.0
        self._lags = before, max(current, lag)


def _what_runs(thread: LoopThread) -> str:
    """Describe the task and the frame that a loop's thread is in."""
    task = asyncio.current_task(thread.loop)
    body = None if task is None else next((body for body in all_bodies() if body.owns(task)), None)
    inner = sys._current_frames().get(thread.ident)  # noqa: SLF001 - documented for debugging
    outer = None if task is None or body is None else body.frame_of(task)
    frames = tuple(_line(frame) for frame in (inner, outer) if frame is not None)
    return f"{_name(task, body)}, at {', called at '.join(dict.fromkeys(frames))}"


def _name(task: asyncio.Task[Any] | None, body: Elsewhere | None) -> str:
    if body is not None:
        return body.name
    return "a callback" if task is None else f"asyncio task {task.get_name()}"


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
