"""`publish_many`: signatures in, outcomes out, in their order, and no more in memory than what is on its way."""

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
    """How many there were so far.

    Attributes:
        accepted: The broker has confirmed them.
        refused: The broker, or the caller's side, did not take them.
        unknown: Not confirmed, and the broker may have them all the same.
        maybe_twice: Sent again after a lost connection, whatever became of them.
        alone: Published one by one, by `apply_async`: canvases.
    """

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    maybe_twice: int = 0
    alone: int = 0

    def count(self, outcome: ItemOutcome) -> None:
        """Add one."""
        if outcome.accepted:
            self.accepted += 1
        elif outcome.maybe_taken:
            self.unknown += 1
        else:
            self.refused += 1
        self.maybe_twice += outcome.maybe_twice
        self.alone += outcome.is_alone


class BulkPublication(Iterator["ItemOutcome"]):
    """Publishes while it is iterated over.

    Attributes:
        totals: What has been handed out so far.
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
        """Return the next outcome, after sending as many as the window takes."""
        self._is_begun = True
        outcome = next(self._outcomes)
        self.totals.count(outcome)
        return outcome

    def run(self, on_outcome: Callable[[ItemOutcome], Any] | None = None) -> PublishTotals:
        """Publish all, hand each outcome to ``on_outcome`` in order, and return the totals.

        Raises:
            PublishError: As `publish_many`.
        """
        for outcome in self:
            if on_outcome is not None:
                on_outcome(outcome)
        return self.totals

    def close(self) -> None:
        """Stop. What was sent and not handed out may have been taken."""
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
    """Publish tasks one after the other without waiting for the broker in between, each of them confirmed.

    Nothing is sent before the first outcome is asked for: iterate over what is returned, or call its ``run()``.
    Outcomes come in the order of the signatures, at most `line.WINDOW_ITEMS` behind them.

    Args:
        signatures: ``add.s(2, 2)``, with its options by ``set(queue=…, countdown=…, priority=…)``; also serialised
            ones, and a canvas, which is published by its own `apply_async`. A generator is read as needed; if
            it is about to wait for its own input, it may yield None, which waits until all before it are settled.
        app: None for the first signature's.
        timeout_seconds: How long it goes on while the broker confirms nothing; None for
            ``publish.timeout_seconds`` of the settings.
        keep_going: Whether to read on after one was refused. If not, what was sent by then is told all the same.

    Returns:
        An iterator of `ItemOutcome`. Should the broker stay away, the outcomes of all that was taken from
        ``signatures`` are handed out, and then it raises `BrokerUnreachable` or `PublishTimeout`: that of the
        first item that was not settled. An exception of ``signatures`` itself is raised at that point too.

    Raises:
        InvalidDelay: ``timeout_seconds`` is no number above 0.

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
    """Publish, and yield what became of each; the window's bounds are those of `Window`."""
    first = next((one for one in given if one is not None), None)
    if first is None:
        return
    app = app or _app_of(first)
    source = _Source(first, given)
    timeout = timeout_seconds or app.settings.publish.timeout_seconds
    began = time.monotonic()
    with app.amqp.pooled_producer(began + timeout) as producer:
        line = Window(app, producer.connection, timeout, time.monotonic() - began)
        try:
            for item in _published(source, line, MessageEncoder(app, producer), keep_going=keep_going):
                if not item.is_alone:  # counted where it was published
                    app.metrics.bulk_item(item.task, item.spec, item.error)
                if item.told is not None and item.error is None:
                    message, context = item.told
                    context.run(app.amqp.publisher.tell, producer, item.outgoing(), message)
                yield item.outcome()
        finally:
            line.close()
    if fault := line.failure or source.fault:
        raise fault


def _published(source: _Source, line: Window, drafter: MessageEncoder, *, keep_going: bool) -> Iterator[BulkItem]:
    """Send as long as the line does, and yield the items in their order as soon as they are settled."""
    waiting: deque[BulkItem] = deque()
    number, has_refused = 0, False
    for signature in source:
        if signature is None:
            line.finish()
        else:
            drafter.bind(*line.channel)
            waiting.append(drafter.draft(number, signature))
            number += 1
            _send(waiting, line)
            has_refused = waiting[-1].error is not None
        while waiting and waiting[0].is_settled:
            has_refused = has_refused or waiting[0].error is not None
            yield waiting.popleft()
        if line.failure is not None or (has_refused and not keep_going):
            break
    line.finish()
    yield from waiting


def _send(waiting: deque[BulkItem], line: Window) -> None:
    """Send the last item, unless it is settled already; of such, too, only so many wait behind another."""
    item = waiting[-1]
    if not item.is_settled:
        line.send(item)
    elif isinstance(item.error, (BrokerUnreachable, PublishTimeout)):
        line.fail(item.error)
    elif len(waiting) >= 2 * WINDOW_ITEMS:
        line.settle(waiting[0])


class _Source(Iterator[Any]):
    """The signatures; an exception of theirs ends them, and is kept for the end."""

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
    app = first.app if isinstance(first, Signature) else current_app._get_current_object()  # noqa: SLF001 - Celery's way
    if not hasattr(app, "publish_many"):
        raise CallError(f"publish_many: expected tasks of a BrokerApp, got those of {type(app).__name__}")
    return app
