"""Move, replay and discard messages: acknowledged in the old place only when the new one has confirmed them."""

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
from broker_app.messages.summary import read_letter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pika

    from broker_app.messages.channel import CallbackChannel
    from broker_app.messages.filter import MessageFilter
    from broker_app.messages.result_states import ResultStates
    from broker_app.messages.scan import ScannedMessage
    from broker_app.messages.summary import MessageSummary


@dataclass(slots=True)
class TransferOutcome:
    """What became of the messages of a queue.

    Attributes:
        read: Messages that were looked at.
        selected: Those that passed the filters.
        done: Those of them that were moved, replayed or discarded; in a dry run none.
        succeeded: Those that were left since their result is SUCCESS.
        refused: Those that their new queue refused (full, or without a leader); they are where they were.
        unroutable: Those for which there is no queue; they are where they were.
        reason: Why the first that was refused or unroutable was; empty if none was.
        by_task: Number of selected messages by task.
        found: Of the ids that were asked for, those that are there.
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
        """Selected messages that could not go where they should."""
        return self.refused + self.unroutable


@dataclass(frozen=True, slots=True)
class PublishRoute:
    """Where a message is published.

    Attributes:
        exchange: Empty for the default exchange, which leads to the queue that the key names.
        key: The routing key.
        shown: What people call it.
    """

    exchange: str
    key: str
    shown: str


class Unroutable(Exception):
    """A message that has no route; its text says why."""


class TransferAction(Protocol):
    """What is done with the selected messages."""

    def prepare(self, letters: list[MessageSummary]) -> None:
        """See to what must be done before any of them is sent."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return where a message goes, and its properties there; raises `Unroutable`."""

    def settle(self, letter_id: str, *, is_done: bool) -> None:
        """Hear what became of one."""


@dataclass(slots=True)
class _Sent:
    delivery: ScannedMessage
    route: PublishRoute
    id: str
    is_returned: bool = False

    @property
    def likeness(self) -> tuple[object, ...]:
        """What tells it from others."""
        return _likeness(self.route.exchange, self.route.key, self.delivery.headers, self.delivery.body)


class ConfirmedSender:
    """Publishes with many confirmations outstanding, and settles each message when its own has come.

    Args:
        link: An open link.
        reading: The block in which the messages are read.
        action: Told of each.
        outcome: Where they are counted.
    """

    def __init__(
        self, link: CallbackChannel, reading: QueueScan, action: TransferAction, outcome: TransferOutcome
    ) -> None:
        self._link = link
        self._reading = reading
        self._action = action
        self._outcome = outcome
        self._last_tag = 0
        self._first_left: int | None = None
        self._pending: dict[int, _Sent] = {}  # by the broker's number, in the order of publishing
        link.channel.add_on_return_callback(link.heard(self._on_return))
        link.ask(link.channel.confirm_delivery, link.heard(self._on_answer))

    def send(self, delivery: ScannedMessage, letter: MessageSummary) -> None:
        """Publish one message where the action says, or keep it if it has no way."""
        try:
            route, properties = self._action.message(delivery)
        except Unroutable as error:
            self._outcome.unroutable += 1
            self._leave(_Sent(delivery, PublishRoute("", "", ""), letter.id), str(error))
            return
        channel = self._link.channel
        with self._link.refusals():
            channel.basic_publish(route.exchange, route.key, delivery.body, properties, mandatory=True)
        self._last_tag += 1
        self._pending[self._last_tag] = _Sent(delivery, route, letter.id)

    def finish(self) -> None:
        """Wait until each message is settled.

        Raises:
            BrokerError: No answer for `ANSWER_SECONDS`; what is not settled will be in both places.
        """
        while left := len(self._pending):
            if not self._link.wait(partial(self._has_fewer, left), ANSWER_SECONDS):
                raise BrokerError(
                    f"{left} messages were not confirmed in time; look at the broker's alarms and log"
                )

    def _has_fewer(self, count: int) -> bool:
        return len(self._pending) < count

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        for sent in self._take(method.delivery_tag, is_multiple=method.multiple):
            if isinstance(method, Basic.Nack):
                self._outcome.refused += 1
                self._leave(sent, f"{sent.route.shown}: its queue refused it")
            elif sent.is_returned:
                self._outcome.unroutable += 1
                self._leave(sent, f"{sent.route.shown}: its queue is not on the broker")
            else:
                self._reading.remove(sent.delivery)
                self._outcome.done += 1
                self._action.settle(sent.id, is_done=True)

    def _take(self, tag: int, *, is_multiple: bool) -> Iterator[_Sent]:
        tags = [pending for pending in self._pending if pending <= tag] if is_multiple else [tag]
        for answered in tags:
            yield self._pending.pop(answered)

    def _leave(self, sent: _Sent, reason: str) -> None:
        self._reading.keep(sent.delivery)
        if self._first_left is None or sent.delivery.tag < self._first_left:  # answers come in any order
            self._first_left, self._outcome.reason = sent.delivery.tag, reason
        self._action.settle(sent.id, is_done=False)

    def _on_return(self, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """Note which message has come back; AMQP tells it by the message alone, before it is confirmed.

        Messages that are alike in all of this are copies of one another: which of them stays is the same.
        """
        returned = _likeness(method.exchange, method.routing_key, properties.headers, body)
        for sent in self._pending.values():
            if not sent.is_returned and sent.likeness == returned:
                sent.is_returned = True
                return
        raise AssertionError("the broker returned a message that is not under way")


def _likeness(exchange: str, key: str, headers: dict[str, Any] | None, body: bytes) -> tuple[object, ...]:
    return exchange, key, (headers or {}).get("id"), body


@dataclass(frozen=True, slots=True)
class TransferJob:
    """What is to be done with a queue's messages.

    Attributes:
        queue: Its name on the broker.
        selection: Which of them.
        lane_prefix: What the delay lanes' names begin with.
        succeeded: Where results are asked for; None to send again also what has succeeded.
        is_dry_run: Whether they are only counted.
        told: Called with the number of messages that were looked at and the number there are to look at.
        is_stopped: Asked now and then; once it says so no more are sent, and what was sent is waited for.
    """

    queue: str
    selection: MessageFilter
    lane_prefix: str
    succeeded: ResultStates | None = None
    is_dry_run: bool = False
    told: Callable[[int, int], None] = lambda _read, _total: None
    is_stopped: Callable[[], bool] = lambda: False


def transfer(link: CallbackChannel, job: TransferJob, action: TransferAction) -> TransferOutcome:
    """Send the selected messages of a queue where an action says; the others go back to where they stood.

    Killed at any point, each message is in its old place, in its new one, or, at most `2 * WINDOW`, in both.

    Raises:
        BrokerError: The broker refused, or the connection was lost.
    """
    outcome = TransferOutcome()
    with QueueScan(link, job.queue) as reading:
        sender = ConfirmedSender(link, reading, action, outcome)
        for batch in reading.batches():
            chosen = _choose(batch, reading, job, outcome)
            action.prepare([letter for _, letter in chosen])
            for delivery, letter in chosen:
                sender.send(delivery, letter)
            job.told(outcome.read, reading.total)
            if _is_enough(job, outcome):
                break
        sender.finish()
    return outcome


def discard(link: CallbackChannel, job: TransferJob) -> TransferOutcome:
    """Remove the selected messages of a queue; the others go back to where they stood.

    Raises:
        BrokerError: As `transfer`.
    """
    outcome = TransferOutcome()
    with QueueScan(link, job.queue) as reading:
        for batch in reading.batches():
            for delivery, _ in _choose(batch, reading, job, outcome):
                reading.remove(delivery)
                outcome.done += 1
            job.told(outcome.read, reading.total)
            if _is_enough(job, outcome):
                break
    return outcome


def _is_enough(job: TransferJob, outcome: TransferOutcome) -> bool:
    return outcome.selected == job.selection.limit or job.is_stopped()


def _choose(
    batch: list[ScannedMessage], reading: QueueScan, job: TransferJob, outcome: TransferOutcome
) -> list[tuple[ScannedMessage, MessageSummary]]:
    """Return the selected messages of a batch; the others are kept, and so are all in a dry run."""
    now = time.time()
    letters = [(delivery, read_letter(delivery, now, job.lane_prefix)) for delivery in batch]
    passed = [(delivery, letter) for delivery, letter in letters if job.selection.matches(letter)]
    done = job.succeeded.succeeded([letter.id for _, letter in passed]) if job.succeeded and passed else set()
    outcome.succeeded += sum(letter.id in done for _, letter in passed)
    chosen = [(delivery, letter) for delivery, letter in passed if letter.id not in done]
    if job.selection.limit is not None:
        chosen = chosen[: job.selection.limit - outcome.selected]
    outcome.read += len(batch)
    outcome.selected += len(chosen)
    outcome.by_task.update(letter.task for _, letter in chosen)
    outcome.found.update(job.selection.ids & {letter.id for _, letter in letters})
    chosen = [] if job.is_dry_run else chosen
    tags = {delivery.tag for delivery, _ in chosen}
    for delivery in batch:
        if delivery.tag not in tags:
            reading.keep(delivery)
    return chosen
