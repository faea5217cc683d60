"""Interrupts: raise exceptions inside running tasks, for pools of threads, greenlets and coroutines."""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from broker_app.coroutines.elsewhere import body_elsewhere, interrupt_elsewhere
from broker_app.coroutines.slot import current_slot

if TYPE_CHECKING:
    from types import FrameType

    from broker_app.coroutines.slot import Slot


class InterruptiblePool(Protocol):
    """A pool whose running tasks can be interrupted. A target is the thread or greenlet that runs a task."""

    def current(self) -> Any:
        """Return the target that runs the caller."""

    def interrupt(self, target: Any, error: type[BaseException] | None) -> None:
        """Raise an error in a target soon; None cancels an error that was not raised yet."""

    def frame(self, target: Any) -> FrameType | None:
        """Return a target's current frame."""

    def lose(self, target: Any) -> None:
        """Replace the slot of a target whose task is stuck."""

    def regain(self, target: Any) -> None:
        """Give back the slot of a target whose stuck task has ended after all; called by the target."""

    def close(self) -> None:
        """Release all waiting targets because the pool is closing."""


def slots_of(pool: Any) -> InterruptiblePool | None:
    """Return a pool as an interruptible one; None if its tasks run in processes or in the worker's loop.

    Args:
        pool: Celery's pool.
    """
    if type(pool).__module__.endswith(".asyncio_pool"):
        return InterruptibleSlots(pool)
    if hasattr(pool, "executor"):
        return InterruptibleThreads(pool.executor)
    return InterruptibleGreenlets(pool) if type(pool).__module__.endswith(".gevent") else None


class InterruptibleThreads:
    """Interrupts the tasks of a thread pool.

    A stuck task keeps its thread, and the executor may start another one. If the stuck task ends later, its thread
    waits until another one is stuck, so that there are never more usable threads than slots.

    Args:
        executor: Its threads.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._is_closed = False
        self._idle: list[threading.Event] = []

    def current(self) -> int:
        """Return the thread's identifier."""
        return threading.get_ident()

    def interrupt(self, target: int, error: type[BaseException] | None) -> None:
        """Raise an error in a thread, or in the coroutine that it waits for."""
        if error is None and target == threading.get_ident():
            _cancel_here()
        elif body_elsewhere(target) is None:
            _raise_in_thread(target, error)
        body = body_elsewhere(target)  # again: the thread may have started to wait, in which nothing can be raised
        if body is not None:
            _raise_in_thread(target, None)
            body.interrupt(error)

    def frame(self, target: int) -> FrameType | None:
        """Return a thread's current frame, or that of the coroutine that it waits for."""
        body = body_elsewhere(target)
        frame = None if body is None else body.frame
        return frame or sys._current_frames().get(target)  # noqa: SLF001 - documented for debugging

    def lose(self, target: int) -> None:
        """Replace the stuck thread by a waiting one, or else by a new one."""
        del target
        with self._lock:
            if self._idle:
                self._idle.pop().set()
            else:
                self._executor._max_workers += 1  # noqa: SLF001 - there is no public way
                self._executor._adjust_thread_count()  # noqa: SLF001 - serves calls that are already queued

    def regain(self, target: int) -> None:
        """Wait until another thread is stuck."""
        del target
        wake = threading.Event()
        with self._lock:
            if self._is_closed:
                return
            self._idle.append(wake)
        wake.wait()

    def close(self) -> None:
        """Let the waiting threads end."""
        with self._lock:
            self._is_closed = True
            for wake in self._idle:
                wake.set()


class InterruptibleSlots:
    """Interrupts the tasks of the asyncio pool: coroutines where they await, plain tasks in their threads.

    Args:
        pool: The pool.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._threads = InterruptibleThreads(pool.threads)

    def current(self) -> Slot | int:
        """Return the slot of a coroutine, or the thread's identifier."""
        return current_slot()

    def interrupt(self, target: Slot | int, error: type[BaseException] | None) -> None:
        """Raise an error in a coroutine, or in a thread."""
        if isinstance(target, int):
            self._threads.interrupt(target, error)
        else:
            interrupt_elsewhere(target, error)

    def frame(self, target: Slot | int) -> FrameType | None:
        """Return the frame of a coroutine, or of a thread."""
        if isinstance(target, int):
            return self._threads.frame(target)
        body = body_elsewhere(target)
        return None if body is None else body.frame

    def lose(self, target: Slot | int) -> None:
        """Add a slot, and a thread for one that is stuck."""
        if isinstance(target, int):
            self._threads.lose(target)
        self._pool.add_slot()

    def regain(self, target: Slot | int) -> None:
        """Take the slot back. A thread more may remain, which changes little."""
        del target
        self._pool.remove_slot()

    def close(self) -> None:
        """Do nothing: no target waits."""


class InterruptibleGreenlets:
    """Interrupts the tasks of Celery's gevent pool. The slot of a greenlet that ignores them is not replaced.

    Args:
        pool: Celery's pool. Its own time limits are disabled, because they leave messages unsettled.
    """

    def __init__(self, pool: Any) -> None:
        self._gevent = import_module("gevent")
        self._raising: dict[Any, Any] = {}  # scheduled callbacks, by greenlet
        apply = pool.on_apply

        def apply_without_limit(*args: Any, **options: Any) -> Any:
            return apply(*args, **(options | {"timeout": 0}))

        pool.on_apply = apply_without_limit

    def current(self) -> Any:
        """Return the greenlet."""
        return self._gevent.getcurrent()

    def interrupt(self, target: Any, error: type[BaseException] | None) -> None:
        """Raise an error in a waiting greenlet at the loop's next iteration."""
        before = self._raising.pop(target, None)
        if before is not None:
            before.stop()
        if error is not None:
            self._raising[target] = self._gevent.get_hub().loop.run_callback(target.throw, error)

    def frame(self, target: Any) -> FrameType | None:
        """Return the frame in which a greenlet waits, or that of the coroutine that it waits for."""
        body = body_elsewhere(id(target))  # gevent's identifier of a thread
        frame: FrameType | None = target.gr_frame
        return frame if body is None else body.frame or frame

    def lose(self, target: Any) -> None:
        """Do nothing: the slot stays occupied."""

    def regain(self, target: Any) -> None:
        """Do nothing: the slot is freed when the greenlet ends."""

    def close(self) -> None:
        """Do nothing: no greenlet waits."""


def _raise_in_thread(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread (docs.python.org/3/c-api, PyThreadState_SetAsyncExc); None cancels it."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


class _Cancelled(BaseException):
    """Takes the place of an error that is not to be raised any more."""


def _cancel_here() -> None:
    """Cancel the error of the calling thread, with one that is caught here.

    Python 3.11 keeps looking for an error that was set to none: from then on all threads of the process would run
    Python code at two thirds of their speed, and a thread that a debugger or coverage traces would hang.
    """
    with suppress(_Cancelled):
        while True:  # again if a finalizer has swallowed it
            _raise_in_thread(threading.get_ident(), _Cancelled)
            for _ in range(100):
                pass
