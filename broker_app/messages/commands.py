"""Queue commands: peek, replay, move, discard and purge, for queues named as on the command line."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.errors import SelectionError
from broker_app.messages.actions import MoveAction, ReplayAction, route_to
from broker_app.messages.channel import open_link
from broker_app.messages.filter import MessageFilter
from broker_app.messages.result_states import result_store
from broker_app.messages.scan import QueueScan
from broker_app.messages.source import MessageSource, find_source
from broker_app.messages.summary import MessageSummary, summarize
from broker_app.messages.transfer import TransferJob, TransferOutcome, transfer
from broker_app.messages.transfer import discard as discard_from
from broker_app.messages.unrouted import UnroutedAction
from broker_app.queues import Names

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.broker.access import Broker
    from broker_app.messages.channel import CallbackChannel
    from broker_app.messages.transfer import TransferAction

COUNTED_LOOKS_BEFORE = (4, 3)
"""Before this version a quorum queue counts each peek at a message as a delivery."""

_EVERYTHING = MessageFilter()


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """Options of a queue command.

    Attributes:
        selection: The messages to process.
        is_dry_run: Whether to only count them.
        told: Progress callback: the number of messages read, and the number to read.
        is_stopped: Polled between batches; once it returns True, no more messages are sent.
    """

    selection: MessageFilter = field(default_factory=MessageFilter)
    is_dry_run: bool = False
    told: Callable[[int, int], None] = lambda _read, _total: None
    is_stopped: Callable[[], bool] = lambda: False

    def job(self, app: Broker, source: MessageSource) -> TransferJob:
        """Return the transfer job for one queue."""
        lanes = f"{Names(app.settings.prefix).delay}."
        return TransferJob(
            source.queue,
            self.selection,
            lanes,
            is_dry_run=self.is_dry_run,
            told=self.told,
            is_stopped=self.is_stopped,
        )


@dataclass(frozen=True, slots=True)
class PeekResult:
    """The first messages of a queue.

    Attributes:
        letters: The messages, in the order in which a worker would get them.
        is_counted: Whether the broker counted the peek as a delivery of a work queue's messages.
    """

    letters: list[MessageSummary]
    is_counted: bool


def peek(app: Broker, name: str, limit: int, selection: MessageFilter = _EVERYTHING) -> PeekResult:
    """Return the first messages of a queue that match; all are requeued when this returns.

    Args:
        app: The app.
        name: The queue.
        limit: The maximum number of messages.
        selection: The filter; its own limit is ignored. Without a filter at most ``limit`` messages are read.

    Raises:
        SelectionError: No such queue.
        BrokerError: The broker cannot be reached, or refuses.
    """
    summaries, now, lanes = [], time.time(), f"{Names(app.settings.prefix).delay}."
    with open_link(app) as link:
        source = find_source(app, link, name)
        with QueueScan(link, source.queue, limit if selection == _EVERYTHING else None) as scan:
            for batch in scan.batches():
                for delivery in batch:
                    summaries.append(summarize(delivery, now, lanes))
                    scan.keep(delivery)
                summaries = [summary for summary in summaries if selection.matches(summary)][:limit]
                if len(summaries) == limit:
                    break
        is_counted = not source.is_kept and link.version[:2] < COUNTED_LOOKS_BEFORE
    return PeekResult(summaries, is_counted and bool(summaries))


def replay(
    app: Broker, name: str, order: CommandOptions, *, to: str | None = None, skip_succeeded: bool = False
) -> TransferOutcome:
    """Send dead letters back to their work queue, and parked tasks to the queue that they were due for.

    Args:
        app: The app.
        name: The dead-letter queue: ``default.dead``.
        order: The options.
        to: Another work queue for all of them.
        skip_succeeded: Whether to leave tasks whose result is SUCCESS.

    Raises:
        SelectionError: An unsuitable queue, or ``skip_succeeded`` without a result store.
        BrokerError: The broker cannot be reached, or refuses; no message is lost.
    """
    results = result_store(app, must_tell=skip_succeeded)
    with open_link(app) as link:
        source = find_source(app, link, name)
        action: TransferAction
        if to is None and source.home is None and source.queue == Names(app.settings.prefix).unrouted:
            settings = app.settings
            table, exchange = settings.routing_table(), Names(settings.prefix).tasks
            action = UnroutedAction(exchange, table, settings.prefix, None, link.user)
        else:
            target = _home(source) if to is None else find_source(app, link, to)
            _check_target(source, target)
            link.ask(link.channel.queue_declare, target.queue, passive=True)
            action = ReplayAction(route_to(target, app.settings.prefix), link.user, results)
        job = order.job(app, source)
        return transfer(link, dataclasses.replace(job, succeeded=results) if skip_succeeded else job, action)


def move(app: Broker, name: str, to: str, order: CommandOptions) -> TransferOutcome:
    """Move messages unchanged to another queue; raises as `replay`."""
    with open_link(app) as link:
        source, target = find_source(app, link, name), find_source(app, link, to)
        _check_target(source, target)
        return transfer(link, order.job(app, source), MoveAction(route_to(target, app.settings.prefix), link.user))


def discard(app: Broker, name: str, order: CommandOptions) -> TransferOutcome:
    """Delete messages permanently; raises as `replay`."""
    with open_link(app) as link:
        return discard_from(link, order.job(app, find_source(app, link, name)))


def purge(app: Broker, name: str, confirm: Callable[[MessageSource, int], bool]) -> int | None:
    """Delete all ready messages of a queue.

    Args:
        app: The app.
        name: The queue.
        confirm: Called with the queue and its number of ready messages.

    Returns:
        The number of deleted messages; None if ``confirm`` returned False.

    Raises:
        SelectionError: No such queue.
        BrokerError: The broker cannot be reached, or refuses.
    """
    with open_link(app) as link:
        source = find_source(app, link, name)
        ready = link.ask(link.channel.queue_declare, source.queue, passive=True).message_count
        if not confirm(source, int(ready)):
            return None
        return _purge(link, source)


def _purge(link: CallbackChannel, source: MessageSource) -> int:
    return int(link.ask(link.channel.queue_purge, source.queue).message_count)


def _home(source: MessageSource) -> MessageSource:
    """Return the work queue that dead letters came from."""
    if source.is_work:
        raise SelectionError(
            f"queue {source.name!r}: expected dead letters, got a work queue; use `broker-app queues move`"
        )
    if source.home is None:
        raise SelectionError(f"queue {source.name!r}: expected --to, since it belongs to no queue of the settings")
    return MessageSource(source.home.name, source.home.broker_name, source.home)


def _check_target(source: MessageSource, target: MessageSource) -> None:
    if source.queue == target.queue:
        raise SelectionError(f"queue {target.name!r}: expected another queue to move to, got the same")
