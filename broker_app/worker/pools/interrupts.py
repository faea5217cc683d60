"""What runs tasks in the worker's process, and how it is interrupted: threads, and gevent's greenlets."""

from __future__ import annotations

import ctypes
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import FrameType


class InterruptiblePool(Protocol):
    """What a pool must be able to do."""

    def current(self) -> Any:
        """Return what runs the caller."""

    def interrupt(self, target: Any, error: type[BaseException] | None) -> None:
        """Raise an error in it soon; None takes back one that it has not met yet."""

    def frame(self, target: Any) -> FrameType | None:
        """Return where it is."""

    def lose(self) -> None:
        """Do without a slot, whose task is stuck."""

    def regain(self) -> None:
        """Take a slot back, whose task has ended after all; called where it ran."""

    def close(self) -> None:
        """Let all go that waits: the pool ends."""


def slots_of(pool: Any) -> InterruptiblePool | None:
    """Return the slots of a pool, None if its tasks have processes of their own, or run in the worker's loop.

    Args:
        pool: Celery's.
    """
    if hasattr(pool, "executor"):
        return InterruptibleThreads(pool)
    return InterruptibleGreenlets(pool) if type(pool).__module__.endswith(".gevent") else None


class InterruptibleThreads:
    """The slots of Celery's thread pool.

    A stuck task keeps its thread, and the executor may start another. A thread that comes back later rests until
    another is stuck: so there are never more tasks at once than slots.

    Args:
        pool: Celery's.
    """

    def __init__(self, pool: Any) -> None:
        self._executor = pool.executor
        self._lock = threading.Lock()
        self._is_closed = False
        self._resting: list[threading.Event] = []

    def current(self) -> int:
        """Return the thread's number."""
        return threading.get_ident()

    def interrupt(self, target: int, error: type[BaseException] | None) -> None:
        """Have the interpreter raise an error in a thread (docs.python.org/3/c-api, PyThreadState_SetAsyncExc)."""
        raised = None if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(target), raised)

    def frame(self, target: int) -> FrameType | None:
        """Return where it is."""
        return sys._current_frames().get(target)  # noqa: SLF001 - documented, for this very use

    def lose(self) -> None:
        """Let a thread that rests, or a new one, take its place."""
        with self._lock:
            if self._resting:
                self._resting.pop().set()
            else:
                self._executor._max_workers += 1  # noqa: SLF001 - it has no other way
                self._executor._adjust_thread_count()  # noqa: SLF001 - for what waits in its queue already

    def regain(self) -> None:
        """Rest until another thread is stuck."""
        rest = threading.Event()
        with self._lock:
            if self._is_closed:
                return
            self._resting.append(rest)
        rest.wait()

    def close(self) -> None:
        """Let the threads end that rest."""
        with self._lock:
            self._is_closed = True
            for rest in self._resting:
                rest.set()


class InterruptibleGreenlets:
    """The slots of Celery's gevent pool. That of a greenlet which swallows what is raised in it is not replaced.

    Args:
        pool: Celery's; its own time limits are switched off, which would leave the message unsettled.
    """

    def __init__(self, pool: Any) -> None:
        self._gevent = import_module("gevent")
        self._raising: dict[Any, Any] = {}  # what the loop is about to do, by greenlet
        apply = pool.on_apply

        def apply_without_limit(*args: Any, **options: Any) -> Any:
            return apply(*args, **(options | {"timeout": 0}))

        pool.on_apply = apply_without_limit

    def current(self) -> Any:
        """Return the greenlet."""
        return self._gevent.getcurrent()

    def interrupt(self, target: Any, error: type[BaseException] | None) -> None:
        """Raise an error in a greenlet at the loop's next turn, where it waits."""
        before = self._raising.pop(target, None)
        if before is not None:
            before.stop()
        if error is not None:
            self._raising[target] = self._gevent.get_hub().loop.run_callback(target.throw, error)

    def frame(self, target: Any) -> FrameType | None:
        """Return where it waits."""
        frame: FrameType | None = target.gr_frame
        return frame

    def lose(self) -> None:
        """Do without."""

    def regain(self) -> None:
        """It ends, and its slot is free."""

    def close(self) -> None:
        """Nothing rests here."""
