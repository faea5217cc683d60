"""`apublish_many`: `publish_many` for coroutines; a thread publishes while the outcomes are awaited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from broker_app.publishing.awaited import awaited, outcome_of, submit
from broker_app.publishing.bulk.api import PublishTotals

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from celery import Celery

    from broker_app.publishing.bulk.api import BulkPublication
    from broker_app.publishing.bulk.item import ItemOutcome

CHUNK_SECONDS = 0.02
"""Time for which a thread collects outcomes before it passes them on."""

CHUNK_ITEMS = 500
"""Maximum number of outcomes that are passed on at once."""

NAME = "apublish_many"


class AsyncBulkPublication(AsyncIterator["ItemOutcome"]):
    """Asynchronous iterator that publishes as it is consumed.

    A cancelled ``await`` ends the publication; the broker may have messages whose outcome was not returned yet.

    Args:
        publication: What `publish_many` returned.
        app: Its app.

    Attributes:
        totals: Counts of the outcomes returned so far.
    """

    def __init__(self, publication: BulkPublication, app: Celery) -> None:
        self.totals = PublishTotals()
        self._app = app
        self._publication = publication
        self._use = threading.Lock()
        self._collected: deque[ItemOutcome] = deque()
        self._end: BaseException | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemOutcome:
        """Return the next outcome."""
        if not self._collected and self._end is None:
            await self._collect()
        if not self._collected:
            end, self._end = self._end, None
            raise end or StopAsyncIteration
        outcome = self._collected.popleft()
        self.totals.count(outcome)
        return outcome

    async def run(self, on_outcome: Callable[[ItemOutcome], Any] | None = None) -> PublishTotals:
        """Publish everything, pass each outcome to ``on_outcome`` in order, and return the totals.

        Raises:
            PublishError: As `publish_many`.
        """
        async for outcome in self:
            if on_outcome is not None:
                on_outcome(outcome)
        return self.totals

    async def aclose(self) -> None:
        """Stop publishing. The broker may have messages whose outcome was not returned yet."""
        await awaited(self._app, self._close, NAME)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _collect(self) -> None:
        work = submit(self._app, self._next_outcomes)
        try:
            self._collected, self._end = await outcome_of(work, NAME, None)
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self._close())
            raise

    def _next_outcomes(self) -> tuple[deque[ItemOutcome], BaseException | None]:
        """Return the next outcomes, and the error that ended the publication, if it has ended; in a thread."""
        found: deque[ItemOutcome] = deque()
        until = time.monotonic() + CHUNK_SECONDS
        try:
            with self._use:
                while len(found) < CHUNK_ITEMS and (not found or time.monotonic() < until):
                    found.append(next(self._publication))
        except StopIteration:
            return found, StopAsyncIteration()
        except Exception as error:  # noqa: BLE001 - raised once the outcomes before it have been returned
            return found, error
        return found, None

    def _close(self) -> None:
        """End the publication, as soon as no thread publishes."""
        with self._use:
            self._publication.close()
