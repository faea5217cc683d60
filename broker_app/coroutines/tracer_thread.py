"""Tracer threads: each runs Celery's tracer for many tasks, whose coroutines wait in the event loop.

Celery's tracer is a plain function, which blocks: it publishes retries and callbacks, counts chords, and calls
handlers and signal receivers. So it must not run in the event loop. Here each task has a greenlet in another
thread. It runs the tracer, and lets those of other tasks run while the loop runs the task's body.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

from broker_app.coroutines import slot

if TYPE_CHECKING:
    from collections.abc import Callable


class TracerThreads:
    """The tracer threads of a pool. New tasks go to those that are free: a call that blocks delays no start.

    Args:
        count: Number of threads.
    """

    def __init__(self, count: int) -> None:
        self._starts: deque[Callable[[GreenSlot], object]] = deque()
        self._threads = tuple(TracerThread(self._starts) for _ in range(count))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def call(self, function: Callable[[GreenSlot], object]) -> None:
        """Call a function, which must not raise, in a greenlet of its own, with its slot."""
        self._starts.append(function)
        min(self._threads, key=_backlog).put(_look)

    def close(self) -> None:
        """End the threads, once the greenlets that want to go on have done so."""
        for thread in self._threads:
            thread.close()


class TracerThread:
    """A thread of greenlets.

    Args:
        starts: Functions to call in greenlets, which it shares with others.
    """

    def __init__(self, starts: deque[Callable[[GreenSlot], object]]) -> None:
        self._starts = starts
        self._steps: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)
        self._is_busy = False

    @property
    def backlog(self) -> int:
        """Number of greenlets that want to go on, with the one that runs."""
        return self._steps.qsize() + self._is_busy

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, step: Callable[[], object]) -> None:
        """Call a function between the greenlets."""
        self._steps.put(step)

    def close(self) -> None:
        """End the thread."""
        self._steps.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (step := self._next()) is not None:
            self._is_busy = True
            step()
            self._is_busy = False

    def _next(self) -> Callable[[], object] | None:
        """Return what to do next: those that go on come before those that start, whom they give their slots."""
        with suppress(Empty):
            return self._steps.get_nowait()
        with suppress(IndexError):
            return GreenSlot(self, self._starts.popleft()).go_on
        return self._steps.get()


class GreenSlot(slot.Slot):
    """A slot whose task is traced in a greenlet.

    Args:
        thread: Its thread.
        function: Called in the greenlet, with this slot.
    """

    __slots__ = ("_function", "_greenlet", "_thread")

    def __init__(self, thread: TracerThread, function: Callable[[GreenSlot], object]) -> None:
        super().__init__()
        self._thread = thread
        self._function = function
        self._greenlet: Any = None

    def go_on(self) -> None:
        """Run the greenlet until it waits or ends; called in its thread."""
        if self._greenlet is None:  # a greenlet belongs to the thread that makes it
            self._greenlet = greenlet(self._function)
            with slot.entered(self):
                self._greenlet.switch(self)
            return
        with slot.entered(self):
            self._greenlet.switch()

    def wait(self) -> None:
        """Let others run until `go_on` is called; called in the greenlet."""
        self._greenlet.parent.switch()

    def signal(self) -> GreenSignal:
        """Return a signal for which the greenlet can wait."""
        return GreenSignal(self, self._thread)


class GreenSignal:
    """A flag that another thread sets, and a greenlet waits for; see `broker_app.coroutines.waiting.Signal`."""

    def __init__(self, waiting: GreenSlot, thread: TracerThread) -> None:
        self._slot = waiting
        self._thread = thread
        self._is_set = False

    def set(self) -> None:
        """Set the flag; once only."""
        self._thread.put(self._go_on)

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until the flag is set, without a time limit: nothing is raised in a greenlet that waits."""
        del timeout_seconds
        self._slot.wait()

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set

    def _go_on(self) -> None:
        self._is_set = True
        self._slot.go_on()


def _look() -> None:
    """Do nothing: after each step, the thread looks for the next start itself."""


def _backlog(thread: TracerThread) -> int:
    return thread.backlog
