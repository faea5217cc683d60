"""Lifespans: what an app opens in each event loop before its coroutines run, such as clients; closed at the end.

It is entered and left in one asyncio task, which belongs to no task of Celery.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from contextlib import asynccontextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

CLOSE_SECONDS = 4.0
"""Time for a lifespan to close, within the time that a worker has to exit after its drain."""

OPENING_SECONDS = 5.0
"""Time after which a lifespan that is still opening is logged, since all coroutines wait for it."""

logger = logging.getLogger(__name__)


class Lifespans:
    """The lifespan of one app, once for each loop of the process.

    Args:
        function: See `broker_app.app.BrokerApp.lifespan`.

    Attributes:
        function: The same.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        is_generator = inspect.isasyncgenfunction(function)
        self._manager: Callable[[], AbstractAsyncContextManager[Any]] = (
            asynccontextmanager(function) if is_generator else function
        )
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lifespan] = WeakKeyDictionary()
        for signal in (signals.worker_shutdown, signals.worker_process_shutdown):
            signal.connect(self._close_all, weak=False, dispatch_uid=id(self))

    def state(self) -> Any:
        """Return what the context manager yielded in the running loop; None outside, and while it is not open."""
        try:
            lifespan = self._open.get(asyncio.get_running_loop())
        except RuntimeError:
            return None
        return None if lifespan is None else lifespan.state

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine once the context manager is open in its loop; if that fails, the next one tries."""
        loop = asyncio.get_running_loop()
        try:
            lifespan = self._open.get(loop)
            if lifespan is None or lifespan.has_failed:
                lifespan = self._open[loop] = _Lifespan(self._manager)
            await lifespan.wait_until_open()
        except BaseException:
            coroutine.close()
            raise
        return await coroutine

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close it in a loop that another thread runs, and wait for it."""
        lifespan = self._open.pop(loop, None)
        if lifespan is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(lifespan.close)
        if not lifespan.closed.wait(CLOSE_SECONDS):
            logger.warning("the app's lifespan did not close within %g s", CLOSE_SECONDS)

    def _close_all(self, **_: Any) -> None:
        for loop in tuple(self._open):
            self.close(loop)


class _Lifespan:
    """A lifespan in the running loop.

    Attributes:
        state: What the context manager yielded.
        closed: Set once it is closed.
    """

    def __init__(self, function: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self.state: Any = None
        self.closed = threading.Event()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(OPENING_SECONDS, self._warn_of_opening)
        self._closing = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(
            self._live(function), name="lifespan", context=Context()
        )

    @property
    def has_failed(self) -> bool:
        """True if it could not be opened."""
        return self._opened.done() and self._opened.exception() is not None

    async def wait_until_open(self) -> None:
        """Wait until it is open; a caller that is cancelled does not cancel it."""
        await asyncio.shield(self._opened)

    def close(self) -> None:
        """Close it soon."""
        self._closing.set()

    def _warn_of_opening(self) -> None:
        if not self._opened.done():
            logger.warning(
                "the app's lifespan has not opened for %g s, and its async def tasks wait; give it a time limit",
                OPENING_SECONDS,
            )

    async def _live(self, function: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        try:
            async with function() as self.state:
                self._opened.set_result(None)
                await self._closing.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                logger.exception("failed to close the app's lifespan")
        finally:
            self.state = None
            self.closed.set()
