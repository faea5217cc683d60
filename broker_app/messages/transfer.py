"""Message transfer: move, replay or discard; a message is acknowledged in its source once its target has it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pika.spec import Basic

from broker_app.errors import BrokerError
from broker_app.messages.channel import ANSWER_SECONDS
from broker_app.messages.scan import QueueScan
from broker_app.messages.summary import summarize
from broker_app.text import counted
from broker_app.wire.pending_confirms import PendingConfirms

if TYPE_CHECKING:
    from collections.abc import Callable

    import pika

    from broker_app.messages.channel import CallbackChannel
    from broker_app.messages.filter import MessageFilter
    from broker_app.messages.result_states import ResultStates
    from broker_app.messages.scan import ScannedMessage
    from broker_app.messages.summary import MessageSummary


@dataclass(slots=True)
class TransferOutcome:
    """The result of a transfer.

    Attributes:
        read: Messages read.
        selected: Messages that matched the filter.
        done: Selected messages that were moved, replayed or discarded; 0 in a dry run.
        succeeded: Matching messages left in place because their result is SUCCESS.
        refused: Messages that their target queue refused (full, or without a leader); they stay in the source.
        unroutable: Messages without a target queue; they stay in the source.
        reason: Why the first of the refused or unroutable messages stayed; empty if there are no such messages.
        by_task: Number of selected messages by task.
        found: The requested ids that were found.
    """

    read: int = 0
    selected: int = 0
    done: int = 0
    succeeded: int = 0
    refused: int = 0
    unroutable: int = 0
    reason: str = ""
    by_task: Counter[str] = field(default_factory=Counter)
    found: set[str] = field(default_factory=set)

    @property
    def failed(self) -> int:
        """Selected messages that could not be sent to their target."""
        return self.refused + self.unroutable


@dataclass(frozen=True, slots=True)
class PublishRoute:
    """The exchange and routing key to publish a message with.

    Attributes:
        exchange: The exchange; empty for the default one, which routes to the queue named by the key.
        key: The routing key.
        shown: The name to show to operators.
    """

    exchange: str
    key: str
    shown: str


class Unroutable(Exception):
    """A message has no route; the text says why."""


class TransferAction(Protocol):
    """An operation on the selected messages."""

    def prepare(self, summaries: list[MessageSummary]) -> None:
        """Prepare a batch before any of its messages is sent."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return the route and the properties of a message; raises `Unroutable`."""

    def settle(self, task_id: str, *, is_done: bool) -> None:
        """React to the outcome of one message."""


@dataclass(slots=True)
class _Sent:
    delivery: ScannedMessage
    route: PublishRoute
    id: str
    is_returned: bool = False

    @property
    def identity(self) -> tuple[object, ...]:
        """The key that identifies it when the broker returns it."""
        return _identity(self.route.exchange, self.route.key, self.delivery.headers, self.delivery.body)


class ConfirmedSender:
    """Publishes with many confirms outstanding, and settles each message when its own confirm arrives.

    Args:
        link: An open channel.
        scan: The scan that delivers the messages.
        action: Called for each message.
        outcome: The counters to update.
    """

    def __init__(
        self, link: CallbackChannel, scan: QueueScan, action: TransferAction, outcome: TransferOutcome
    ) -> None:
        self._link = link
        self._scan = scan
        self._action = action
        self._outcome = outcome
        self._first_kept: int | None = None
        self._pending: PendingConfirms[_Sent] = PendingConfirms()
        link.channel.add_on_return_callback(link.waking(self._on_return))
        link.ask(link.channel.confirm_delivery, link.waking(self._on_answer))

    def send(self, delivery: ScannedMessage, summary: MessageSummary) -> None:
        """Publish one message as the action says, or keep it if it is unroutable."""
        try:
            route, properties = self._action.message(delivery)
        except Unroutable as error:
            self._outcome.unroutable += 1
            self._keep(_Sent(delivery, PublishRoute("", "", ""), summary.id), str(error))
            return
        channel = self._link.channel
        with self._link.refusals():
            channel.basic_publish(route.exchange, route.key, delivery.body, properties, mandatory=True)
        self._pending.add(_Sent(delivery, route, summary.id))

    def finish(self) -> None:
        """Wait until each message is settled.

        Raises:
            BrokerError: No answer for `ANSWER_SECONDS`; unsettled messages may be in both queues.
        """
        while left := len(self._pending):
            if not self._link.wait(partial(self._has_fewer, left), ANSWER_SECONDS):
                raise BrokerError(
                    f"not confirmed in time: {counted(left, 'message')}; look at the broker's alarms and log"
                )

    def _has_fewer(self, count: int) -> bool:
        return len(self._pending) < count

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        for _, sent in self._pending.take(method.delivery_tag, multiple=method.multiple):
            if isinstance(method, Basic.Nack):
                self._outcome.refused += 1
                self._keep(sent, f"{sent.route.shown}: its queue refused it")
            elif sent.is_returned:
                self._outcome.unroutable += 1
                self._keep(sent, f"{sent.route.shown}: its queue is not on the broker")
            else:
                self._scan.remove(sent.delivery)
                self._outcome.done += 1
                self._action.settle(sent.id, is_done=True)

    def _keep(self, sent: _Sent, reason: str) -> None:
        self._scan.keep(sent.delivery)
        if self._first_kept is None or sent.delivery.tag < self._first_kept:  # confirms arrive in any order
            self._first_kept, self._outcome.reason = sent.delivery.tag, reason
        self._action.settle(sent.id, is_done=False)

    def _on_return(self, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """Mark the returned message, before its confirm arrives; AMQP returns the message without its tag.

        Messages that are equal in all of these fields are copies, so it does not matter which of them stays.
        """
        returned = _identity(method.exchange, method.routing_key, properties.headers, body)
        for _, sent in self._pending.oldest_first():
            if not sent.is_returned and sent.identity == returned:
                sent.is_returned = True
                return
        raise AssertionError("the broker returned a message that was not sent")


def _identity(exchange: str, key: str, headers: dict[str, Any] | None, body: bytes) -> tuple[object, ...]:
    return exchange, key, (headers or {}).get("id"), body


@dataclass(frozen=True, slots=True)
class TransferJob:
    """The parameters of a transfer.

    Attributes:
        queue: The source queue's name on the broker.
        selection: The messages to process.
        lane_prefix: The prefix of the delay lanes' names.
        succeeded: The results used to skip successful tasks; None to send those too.
        is_dry_run: Whether to only count the messages.
        told: Progress callback: the number of messages read, and the number to read.
        is_stopped: Polled between batches; once it returns True, no more messages are sent, and pending confirms
            are awaited.
    """

    queue: str
    selection: MessageFilter
    lane_prefix: str
    succeeded: ResultStates | None = None
    is_dry_run: bool = False
    told: Callable[[int, int], None] = lambda _read, _total: None
    is_stopped: Callable[[], bool] = lambda: False


def transfer(link: CallbackChannel, job: TransferJob, action: TransferAction) -> TransferOutcome:
    """Send the selected messages of a queue as an action says; the others keep their positions.

    After a kill at any point, each message is in its source, in its target, or, for at most `2 * WINDOW`, in both.

    Raises:
        BrokerError: The broker refused, or the connection was lost.
    """
    outcome = TransferOutcome()
    with QueueScan(link, job.queue) as scan:
        sender = ConfirmedSender(link, scan, action, outcome)
        for batch in scan.batches():
            chosen = _choose(batch, scan, job, outcome)
            action.prepare([summary for _, summary in chosen])
            for delivery, summary in chosen:
                sender.send(delivery, summary)
            job.told(outcome.read, scan.total)
            if _is_enough(job, outcome):
                break
        sender.finish()
    return outcome


def discard(link: CallbackChannel, job: TransferJob) -> TransferOutcome:
    """Delete the selected messages of a queue; the others keep their positions.

    Raises:
        BrokerError: As `transfer`.
    """
    outcome = TransferOutcome()
    with QueueScan(link, job.queue) as scan:
        for batch in scan.batches():
            for delivery, _ in _choose(batch, scan, job, outcome):
                scan.remove(delivery)
                outcome.done += 1
            job.told(outcome.read, scan.total)
            if _is_enough(job, outcome):
                break
    return outcome


def _is_enough(job: TransferJob, outcome: TransferOutcome) -> bool:
    return outcome.selected == job.selection.limit or job.is_stopped()


def _choose(
    batch: list[ScannedMessage], scan: QueueScan, job: TransferJob, outcome: TransferOutcome
) -> list[tuple[ScannedMessage, MessageSummary]]:
    """Return the selected messages of a batch, none in a dry run; the others are kept."""
    now = time.time()
    summaries = [(delivery, summarize(delivery, now, job.lane_prefix)) for delivery in batch]
    passed = [(delivery, summary) for delivery, summary in summaries if job.selection.matches(summary)]
    done = job.succeeded.succeeded([summary.id for _, summary in passed]) if job.succeeded and passed else set()
    outcome.succeeded += sum(summary.id in done for _, summary in passed)
    chosen = [(delivery, summary) for delivery, summary in passed if summary.id not in done]
    if job.selection.limit is not None:
        chosen = chosen[: job.selection.limit - outcome.selected]
    outcome.read += len(batch)
    outcome.selected += len(chosen)
    outcome.by_task.update(summary.task for _, summary in chosen)
    outcome.found.update(job.selection.ids & {summary.id for _, summary in summaries})
    chosen = [] if job.is_dry_run else chosen
    tags = {delivery.tag for delivery, _ in chosen}
    for delivery in batch:
        if delivery.tag not in tags:
            scan.keep(delivery)
    return chosen
