"""Asyncio pool (``-P asyncio``): the bodies of ``async def`` tasks run in one event loop, plain tasks in threads.

The loop has a thread of its own, so that heartbeats and acknowledgements never wait for it. It runs only the
bodies: what Celery does before and after them runs in tracer threads (`broker_app.coroutines.tracer_thread`).
"""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool, apply_target

from broker_app.coroutines.elsewhere import interrupt_elsewhere
from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line
from broker_app.settings.extras import missing_pool
from broker_app.worker.pools.thread_pool import ThreadExecutor, guarded

try:
    from greenlet import GreenletExit

    from broker_app.coroutines.tracer_thread import TracerThreads
except ModuleNotFoundError as missing:
    with shown_in_one_line():
        raise SettingsError([f"-P asyncio: {missing_pool('asyncio')}"]) from missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.coroutines.slot import Slot

MAX_THREADS = 32
"""Maximum number of plain tasks at a time."""

TRACERS = 4
"""Tracer threads: as many calls that block, such as publishing a retry, at a time."""


YOUNG_OBJECTS, YOUNG_COLLECTIONS = 10_000, 20
"""Thresholds of the garbage collector: new objects before it looks at them, and such looks before older ones."""


class TaskPool(BasePool):
    """Celery's interface to the pool. Its limit is the number of tasks at a time, of both kinds together.

    Attributes:
        threads: The threads of plain tasks.
    """

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.threads = ThreadExecutor(min(self.limit, MAX_THREADS))
        self._tracers = TracerThreads(min(self.limit, TRACERS))
        self._changed = threading.Condition()
        self._free: int = self.limit
        self._waiting: deque[_Call] = deque()
        self._unstarted: set[_Call] = set()
        self._slots: dict[int, Slot] = {}

    def on_start(self) -> None:
        """Start the tracer threads."""
        self._tracers.start()
        _collect_less_garbage()

    def on_apply(
        self,
        target: Callable[..., object],
        args: Any = (),
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> None:
        """Run a task once a slot is free.

        Args:
            target: Celery's function that traces the task.
            args: Its arguments; the first is the task's name.
            kwargs: Its keyword arguments.
            callback: Called with what it returned.
            accept_callback: Called before it.
        """
        arguments = (args, kwargs, callback, accept_callback)
        call = _Call(target, arguments, is_coroutine=self._is_coroutine(args[0]))
        self._unstarted.add(call)
        with self._changed:
            if self._free <= 0:
                self._waiting.append(call)
                return
            self._free -= 1
        self._start(call)

    def flush(self) -> None:
        """Drop the calls that have not started, as Celery asks when the connection is lost."""
        self.drop_unstarted()

    def drop_unstarted(self) -> None:
        """Drop the calls that have not started."""
        for call in tuple(self._unstarted):
            call.is_dropped = True

    def on_stop(self) -> None:
        """Wait for the running tasks, and end the threads."""
        self.flush()
        with self._changed:
            self._changed.wait_for(lambda: self._free >= self.limit and not self._waiting)
        self.threads.shutdown(cancel_futures=True)
        self._tracers.close()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End the coroutine of a task (``revoke(terminate=True)``), where it awaits.

        Args:
            pid: The number under which it was accepted; that of the process for a plain task.
            signal: Ignored.

        Raises:
            NotImplementedError: It is a plain task; Celery's thread pool refuses it too.
        """
        del signal
        if pid == os.getpid():
            raise NotImplementedError("a plain task, which runs in a thread, cannot be terminated")
        slot = self._slots.get(pid)
        if slot is not None:
            interrupt_elsewhere(slot, GreenletExit)

    def add_slot(self) -> None:
        """Replace a slot whose task is stuck."""
        self._free_slot()

    def remove_slot(self) -> None:
        """Take back a slot that was added, since the stuck task has ended."""
        with self._changed:
            self._free -= 1

    def _is_coroutine(self, name: str) -> bool:
        """Return whether a task runs in the loop; a class's own ``__call__`` may block, and runs in a thread."""
        task = self.app.tasks.get(name)
        return getattr(task, "is_async", False) and not task.has_own_call

    def _start(self, call: _Call) -> None:
        if call.is_coroutine:
            self._tracers.call(partial(self._run_in_slot, call))
        else:
            self.threads.call(self._run, call, None)

    def _run_in_slot(self, call: _Call, slot: Slot) -> None:
        guarded(self._run, call, slot)

    def _run(self, call: _Call, slot: Slot | None) -> None:
        self._unstarted.discard(call)
        number = os.getpid() if slot is None else id(slot)
        try:
            if slot is not None:
                self._slots[number] = slot
            if not call.is_dropped:
                apply_target(_ending_terminated(call.target), *call.arguments, pid=number)
        finally:
            self._slots.pop(number, None)
            self._free_slot()

    def _free_slot(self) -> None:
        with self._changed:
            self._free += 1
            if self._free <= 0 or not self._waiting:
                self._changed.notify_all()
                return
            self._free -= 1
            call = self._waiting.popleft()
        self._start(call)


class _Call:
    """A task that was handed to the pool.

    Attributes:
        target: Celery's function that traces it.
        arguments: The other arguments of `apply_target`.
        is_coroutine: Whether its body runs in the loop.
        is_dropped: Whether it must not start any more.
    """

    __slots__ = ("arguments", "is_coroutine", "is_dropped", "target")

    def __init__(self, target: Callable[..., object], arguments: tuple[Any, ...], *, is_coroutine: bool) -> None:
        self.is_coroutine = is_coroutine
        self.target = target
        self.arguments = arguments
        self.is_dropped = False


def _collect_less_garbage() -> None:
    """Make the garbage collector look less often at what lives long: the program, and thousands of waiting tasks.

    By default it looks at all objects again whenever their number has grown by a quarter. While thousands of tasks
    started, that took two fifths of the processor time of each.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    young, _, oldest = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:  # otherwise the program has its own
        gc.set_threshold(YOUNG_OBJECTS, YOUNG_COLLECTIONS, oldest)


def _ending_terminated(target: Callable[..., object]) -> Callable[..., object]:
    """Return a function that takes a task's termination for its end, as Celery's gevent pool does."""

    def run(*args: Any, **options: Any) -> object:
        try:
            return target(*args, **options)
        except GreenletExit:
            return False, None, None

    return run
