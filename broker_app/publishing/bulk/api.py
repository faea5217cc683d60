"""`publish_many`: takes signatures and yields outcomes in the same order, holding only one window in memory."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import current_app
from celery.canvas import Signature

from broker_app.errors import BrokerUnreachable, CallError, PublishTimeout
from broker_app.publishing.bulk.encoder import MessageEncoder
from broker_app.publishing.bulk.window import WINDOW_ITEMS, Window
from broker_app.publishing.publisher import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import Self

    from celery import Celery

    from broker_app.publishing.bulk.item import BulkItem, ItemOutcome

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PublishTotals:
    """Counts of the outcomes so far.

    Attributes:
        accepted: Confirmed by the broker.
        refused: Rejected by the broker, or before they were sent.
        unknown: Not confirmed; the broker may still have them.
        maybe_twice: Sent again after a lost connection, whatever their outcome.
        alone: Published individually by `apply_async`, as canvases are.
    """

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    maybe_twice: int = 0
    alone: int = 0

    def count(self, outcome: ItemOutcome) -> None:
        """Count one outcome."""
        if outcome.accepted:
            self.accepted += 1
        elif outcome.maybe_taken:
            self.unknown += 1
        else:
            self.refused += 1
        self.maybe_twice += outcome.maybe_twice
        self.alone += outcome.is_alone


class BulkPublication(Iterator["ItemOutcome"]):
    """Iterator that publishes as it is consumed.

    Attributes:
        totals: Counts of the outcomes returned so far.
    """

    def __init__(
        self,
        signatures: Iterable[Signature | Mapping[str, Any] | None],
        app: Celery | None,
        timeout_seconds: float | None,
        *,
        keep_going: bool,
    ) -> None:
        self.totals = PublishTotals()
        self._is_begun = False
        self._outcomes = _outcomes(iter(signatures), app, timeout_seconds, keep_going=keep_going)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemOutcome:
        """Return the next outcome, after sending as many messages as the window allows."""
        self._is_begun = True
        outcome = next(self._outcomes)
        self.totals.count(outcome)
        return outcome

    def run(self, on_outcome: Callable[[ItemOutcome], Any] | None = None) -> PublishTotals:
        """Publish everything, pass each outcome to ``on_outcome`` in order, and return the totals.

        Raises:
            PublishError: As `publish_many`.
        """
        for outcome in self:
            if on_outcome is not None:
                on_outcome(outcome)
        return self.totals

    def close(self) -> None:
        """Stop publishing. The broker may have messages whose outcome was not returned yet."""
        self._is_begun = True
        self._outcomes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._is_begun:
            logger.error("publish_many: nothing was sent; iterate over what it returns, or call run()")


def publish_many(
    signatures: Iterable[Signature | Mapping[str, Any] | None],
    *,
    app: Celery | None = None,
    timeout_seconds: float | None = None,
    keep_going: bool = True,
) -> BulkPublication:
    """Publish tasks without waiting for the broker after each one; every message is confirmed.

    Nothing is sent until the first outcome is requested: iterate over the returned object, or call its ``run()``.
    Outcomes arrive in the order of the signatures and lag at most `window.WINDOW_ITEMS` behind.

    Args:
        signatures: Signatures such as ``add.s(2, 2)``; set options with ``set(queue=…, countdown=…, priority=…)``.
            Serialised signatures and canvases work too; a canvas is published by its own `apply_async`. A
            generator is consumed lazily. Before it waits for its own input, it may yield None: publishing then
            pauses until every earlier item is settled.
        app: The app; None uses the app of the first signature.
        timeout_seconds: Give up after this long without a confirm; None uses the setting
            ``publish.timeout_seconds``.
        keep_going: Whether to continue after a refusal. Outcomes of messages already sent are returned either way.

    Returns:
        An iterator of `ItemOutcome`. If the broker stays unreachable, it yields the outcome of every signature
        read so far, then raises the `BrokerUnreachable` or `PublishTimeout` of the first unsettled item. An
        exception raised by ``signatures`` itself is re-raised at the same point.

    Raises:
        InvalidDelay: ``timeout_seconds`` is not a number above 0.

    Example:
        >>> from broker_app.tasks import add
        >>> totals = publish_many(add.s(n, n) for n in range(100_000)).run()  # doctest: +SKIP
        >>> totals.accepted  # doctest: +SKIP
        100000
    """
    if timeout_seconds is not None:
        check_seconds("timeout_seconds", timeout_seconds)
    return BulkPublication(signatures, app, timeout_seconds, keep_going=keep_going)


def _outcomes(
    given: Iterator[Any], app: Celery | None, timeout_seconds: float | None, *, keep_going: bool
) -> Generator[ItemOutcome, None, None]:
    """Publish the signatures and yield their outcomes; `Window` limits how many are in flight."""
    first = next((one for one in given if one is not None), None)
    if first is None:
        return
    app = app or _app_of(first)
    source = _Source(first, given)
    timeout = timeout_seconds or app.settings.publish.timeout_seconds
    began = time.monotonic()
    with app.amqp.pooled_producer(began + timeout) as producer:
        window = Window(app, producer.connection, timeout, time.monotonic() - began)
        try:
            for item in _published(source, window, MessageEncoder(app, producer), keep_going=keep_going):
                if not item.is_alone:  # counted where it was published
                    app.metrics.bulk_item(item.task, item.spec, item.error)
                if item.told is not None and item.error is None:
                    message, context = item.told
                    context.run(app.amqp.publisher.tell, producer, item.outgoing(), message)
                yield item.outcome()
        finally:
            window.close()
    if fault := window.failure or source.fault:
        raise fault


def _published(
    source: _Source, window: Window, encoder: MessageEncoder, *, keep_going: bool
) -> Iterator[BulkItem]:
    """Send until the window fails, and yield items in order as soon as they are settled."""
    waiting: deque[BulkItem] = deque()
    number, has_refused = 0, False
    for signature in source:
        if signature is None:
            window.finish()
        else:
            encoder.bind(*window.channel)
            waiting.append(encoder.draft(number, signature))
            number += 1
            _send(waiting, window)
            has_refused = waiting[-1].error is not None
        while waiting and waiting[0].is_settled:
            has_refused = has_refused or waiting[0].error is not None
            yield waiting.popleft()
        if window.failure is not None or (has_refused and not keep_going):
            break
    window.finish()
    yield from waiting


def _send(waiting: deque[BulkItem], window: Window) -> None:
    """Send the last item unless it is settled already; bound the settled items queued behind an unsettled one."""
    item = waiting[-1]
    if not item.is_settled:
        window.send(item)
    elif isinstance(item.error, (BrokerUnreachable, PublishTimeout)):
        window.fail(item.error)
    elif len(waiting) >= 2 * WINDOW_ITEMS:
        window.settle(waiting[0])


class _Source(Iterator[Any]):
    """The caller's signatures. An exception ends the iteration and is kept in `fault` to be raised last."""

    def __init__(self, first: Any, rest: Iterator[Any]) -> None:
        self.fault: Exception | None = None
        self._first: list[Any] = [first]
        self._rest = rest

    def __next__(self) -> Any:
        if self._first:
            return self._first.pop()
        try:
            return next(self._rest)
        except StopIteration:
            raise
        except Exception as error:
            self.fault = error
            raise StopIteration from error


def _app_of(first: Any) -> Celery:
    app = first.app if isinstance(first, Signature) else current_app._get_current_object()  # noqa: SLF001 - as Celery does
    if not hasattr(app, "publish_many"):
        raise CallError(f"publish_many: expected tasks of a BrokerApp, got those of {type(app).__name__}")
    return app
