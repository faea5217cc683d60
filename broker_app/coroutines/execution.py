"""Execution: the run of one coroutine in the event loop, for the slot that waits for its outcome.

An error raised in the waiting slot, such as a time limit, is raised in the coroutine, where it awaits. asyncio
can only cancel a task, so the task is cancelled, and the error replaces CancelledError.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from broker_app.coroutines.context import enter, leave
from broker_app.coroutines.elsewhere import running_elsewhere
from broker_app.coroutines.loop import running_loop
from broker_app.coroutines.slot import new_signal

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from types import FrameType

    from celery import Task
    from celery.app.task import Context

    from broker_app.coroutines.loop import LoopThread

LEFT_SECONDS = 1.0
"""Time for asyncio tasks that a coroutine left behind to end after they were cancelled."""

GRACE_SECONDS = 2.0
"""Time for a coroutine to end after its slot was told to end; then the slot leaves it."""

logger = logging.getLogger(__name__)


def run_coroutine(coroutine: Coroutine[Any, Any, Any], task: Task, request: Context) -> Any:
    """Run the coroutine of a task in the process's event loop, and wait for it.

    Args:
        coroutine: The task's body.
        task: The task, which is ``current_task`` in the coroutine.
        request: The request, which is ``self.request`` in the coroutine.

    Returns:
        What the coroutine returned.

    Raises:
        BaseException: What the coroutine raised.
    """
    lifespans = getattr(task.app, "lifespans", None)
    run = coroutine if lifespans is None else lifespans.run(coroutine)
    execution = Execution(run, task, request, body=coroutine)
    with running_loop(lifespans) as thread, running_elsewhere(execution):
        return execution.run(thread)


class Execution:
    """The run of a coroutine; see `run_coroutine` for the arguments.

    Args:
        coroutine: Runs the body.
        task: The task.
        request: The request.
        body: The task's body.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], task: Task, request: Context, *, body: Coroutine[Any, Any, Any]
    ) -> None:
        self.name = f"{task.name}[{request.id}]"
        self._coroutine = coroutine
        self._body = body
        self._celery_task = task
        self._request = request
        self._done = new_signal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[Any]] = set()
        self._pending: BaseException | type[BaseException] | None = None
        self._cancels = 0
        self._is_warned = False
        self._is_over = False
        self._value: Any = None
        self._error: BaseException | None = None

    @property
    def frame(self) -> FrameType | None:
        """The frame of the body; None once it has ended."""
        frame: FrameType | None = self._body.cr_frame  # type: ignore[attr-defined] # of a coroutine function
        return frame

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Record an asyncio task that runs in this execution's context."""
        self._children.add(task)
        task.add_done_callback(self._children.discard)

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Return whether an asyncio task runs the body, or was created by it."""
        return task is self._task or task in self._children

    def frame_of(self, task: asyncio.Task[Any]) -> FrameType | None:
        """Return the outermost frame of the user's code in an asyncio task that it owns."""
        return self.frame if task is self._task else getattr(task.get_coro(), "cr_frame", None)

    def interrupt(self, error: BaseException | type[BaseException] | None) -> None:
        """Raise an error in the coroutine soon, where it awaits; None cancels one that was not raised yet.

        The soft time limit is raised once, even if it comes on two ways.
        """
        if error is not None and _is_soft(error):
            if self._is_warned:
                return
            self._is_warned = True
        self._pending = error
        if error is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._deliver)

    def run(self, thread: LoopThread) -> Any:
        """Run the coroutine in the loop of another thread, and wait for its outcome."""
        context = copy_context()
        context.run(enter, self, self._celery_task, self._request)
        deadline: float | None = None
        ending: BaseException | None = None
        try:
            self._loop = thread.loop
            thread.call_soon(self._start, context)
            while not self._done.is_set():
                try:
                    self._done.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                except BaseException as error:  # noqa: BLE001 - raised in the coroutine
                    self.interrupt(error)
                    if not isinstance(error, Exception) and deadline is None:
                        ending, deadline = error, time.monotonic() + GRACE_SECONDS
                if ending is not None and deadline is not None and time.monotonic() >= deadline:
                    raise ending
            return self._outcome()
        finally:
            if not self._done.is_set():
                self._abandon()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Await the coroutine; a pending error replaces the value or error that it would be resumed with."""
        step: Any = self._coroutine.send
        argument: Any = None
        while True:
            if self._pending is not None:
                step, argument = self._coroutine.throw, self._take()
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            step, argument = self._coroutine.send, None
            try:
                argument = yield awaited
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                step, argument = self._coroutine.throw, error

    def _start(self, context: Any) -> None:
        self._task = asyncio.Task(self._main(), loop=self._loop, name=self.name, context=context)

    async def _main(self) -> None:
        try:
            try:
                self._value = await self
            except BaseException as error:  # noqa: BLE001 - raised in the slot
                self._error = error
            self._is_over = True
            await self._end_children()
        finally:
            leave(self._celery_task)
            self._done.set()

    async def _end_children(self) -> None:
        left = {task for task in self._children if not task.done()}
        if not left:
            return
        logger.warning("%s left asyncio tasks behind, which are cancelled: %s", self.name, _names(left))
        for task in left:
            task.cancel()
        _, still = await asyncio.wait(left, timeout=LEFT_SECONDS)
        if still:
            logger.error("%s left asyncio tasks behind, which do not end: %s", self.name, _names(still))

    def _deliver(self) -> None:
        """Wake the coroutine, in the loop."""
        if self._task is not None and self._pending is not None and not self._is_over:
            self._cancels += 1
            self._task.cancel()

    def _take(self) -> BaseException:
        """Return the pending error, and undo the cancellations that made it known."""
        error, self._pending = self._pending, None
        while self._cancels and self._task is not None:
            self._cancels -= 1
            self._task.uncancel()
        return error() if isinstance(error, type) else error  # type: ignore[return-value] # pending, so not None

    def _outcome(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame

    def _abandon(self) -> None:
        logger.error("%s does not end; its slot goes on without it", self.name)
        if self._pending is None:
            self.interrupt(asyncio.CancelledError)


def _is_soft(error: BaseException | type[BaseException]) -> bool:
    kind = error if isinstance(error, type) else type(error)
    return issubclass(kind, SoftTimeLimitExceeded)


def _names(tasks: set[asyncio.Task[Any]]) -> str:
    return ", ".join(sorted(getattr(task.get_coro(), "__qualname__", repr(task)) for task in tasks))
