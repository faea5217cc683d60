"""Event loop of a process: made on first use, on a thread of its own, by the user's loop policy."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from broker_app.coroutines.context import CURRENT
from broker_app.coroutines.green_loop import is_green, new_green_loop
from broker_app.coroutines.waiting import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from broker_app.coroutines.lifespan import Lifespans

logger = logging.getLogger(__name__)


class LoopThread:
    """An event loop that runs in a thread until it is closed.

    Raises:
        Exception: The user's policy failed to make a loop.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_called = False
        self._ready = Signal()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="asyncio-tasks", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise self._problem

    @property
    def ident(self) -> int:
        """The thread's identifier."""
        return self._thread.ident or 0

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop; in any thread.

        The loop is woken once for calls that follow each other: each time costs a system call, and a change of the
        thread that runs.
        """
        self._calls.append((function, arguments))
        if not self._is_called:
            self._is_called = True
            self.loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._is_called = False  # first: calls that come from now on wake the loop again
        while self._calls:
            function, arguments = self._calls.popleft()
            function(*arguments)

    def close(self) -> None:
        """End the loop and its thread soon."""
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _run(self) -> None:
        try:
            self.loop = new_green_loop() if is_green() else asyncio.new_event_loop()
            self.loop.set_task_factory(_create_task)  # type: ignore[arg-type] # takes a context since Python 3.11
            asyncio.set_event_loop(self.loop)
        except BaseException as error:  # noqa: BLE001 - raised where the thread was started
            self._problem = error
            return
        finally:
            self._ready.set()
        while not self._has_ended():
            pass
        self.loop.close()

    def _has_ended(self) -> bool:
        """Run the loop; return False if it was stopped by a task that is not awaited."""
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio stores it in the task, and lets it end the loop
            logger.error("an asyncio task raised %r; the event loop goes on", error)  # noqa: TRY400 - no traceback
            return False
        return True


@contextmanager
def running_loop(lifespans: Lifespans | None = None) -> Iterator[LoopThread]:
    """Yield the process's loop, or a new one inside a coroutine, which blocks its loop meanwhile.

    Args:
        lifespans: Closed in a new loop at its end.
    """
    if CURRENT.get() is None:
        yield _shared()
        return
    thread = LoopThread()
    try:
        yield thread
    finally:
        if lifespans is not None:
            lifespans.close(thread.loop)
        thread.close()


def shared_thread() -> LoopThread | None:
    """Return the thread of the process's loop; None if no coroutine has run yet."""
    return _thread


def _shared() -> LoopThread:
    global _thread  # noqa: PLW0603 - one loop per process
    with _lock:
        if _thread is None:
            _thread = LoopThread()
        return _thread


def _create_task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """Create a task, which belongs to the execution in whose context it runs."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    context = options.get("context")
    execution = CURRENT.get() if context is None else context.get(CURRENT)
    if execution is not None:
        execution.adopt(task)
    return task


def _forget() -> None:
    """Start a forked process without its parent's loop, whose thread it does not have."""
    global _thread, _lock
    _thread, _lock = None, threading.Lock()


_thread: LoopThread | None = None
_lock = threading.Lock()
os.register_at_fork(after_in_child=_forget)
