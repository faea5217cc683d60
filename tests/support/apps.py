"""Apps for tests, each with a settings file of its own, and a look into their queues."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amqp
from amqp.exceptions import MessageNacked, NotFound
from kombu import pools

from broker_app import BrokerApp
from broker_app.wire.confirm_channel import ConfirmChannel, ConfirmOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kombu.connection import Connection
    from kombu.message import Message

    MakeUser = Callable[..., str]

PATIENCE = "[publish]\ntimeout_seconds = 60\n"
"""A call lasts so long in tests that are not about its time-out: a busy broker may stand still for seconds."""

_AT_ONCE = 500
"""Messages on their way to the broker."""

USER_PASSWORD = "s3cr3t"
TWO_QUEUES = "[queues.default]\n[queues.lopri]\n"


def patient(settings: str) -> str:
    """Return settings (TOML) in which a call has time, unless they say themselves how long it lasts."""
    return settings if "[publish]" in settings else f"{settings}\n{PATIENCE}"


@dataclass
class AppMaker:
    """Makes apps that share a state folder.

    Attributes:
        folder: Of the settings files and the state.
        url: The broker, unless an app is made with another.
    """

    folder: Path
    url: str
    _made: list[BrokerApp] = field(default_factory=list)

    def __call__(self, settings: str = TWO_QUEUES, *, url: str | None = None, **options: Any) -> BrokerApp:
        """Return an app with these settings (TOML, its tables last).

        Args:
            settings: What the file says besides the broker and the state folder.
            url: Another broker, or another way to it.
            **options: Celery's, for the app's configuration.
        """
        file = self.folder / f"settings-{len(self._made)}.toml"
        head = (
            f"broker_url = {json.dumps(url or self.url)}\nstate_dir = {json.dumps(str(self.folder / 'state'))}\n"
        )
        file.write_text(head + patient(settings), encoding="utf-8")
        app = BrokerApp("tests", config=file, set_as_current=False)
        app.conf.update(options)
        self._made.append(app)
        return app

    def close(self) -> None:
        """Close what the apps opened."""
        for app in self._made:
            app.close()
        pools.reset()


@contextmanager
def app_maker(folder: Path, url: str) -> Iterator[AppMaker]:
    """Yield an `AppMaker` and close its apps."""
    maker = AppMaker(folder, url)
    try:
        yield maker
    finally:
        maker.close()


def depth(app: BrokerApp, queue: str) -> int | None:
    """Return how many messages wait in a queue (its name on the broker), None if there is no such queue."""
    with app.connection_for_write() as connection:
        try:
            found: int = connection.default_channel.queue_declare(queue, passive=True).message_count
        except NotFound:
            return None
        return found


def put(channel: amqp.Channel, message: amqp.Message, exchange: str, routing_key: str) -> None:
    """Publish a message that no producer of ours would publish, and return once the broker has it.

    A quorum queue that was just declared has no leader yet, and its broker refuses the message for a moment.
    """
    deadline = time.monotonic() + 30
    while True:
        try:
            channel.basic_publish_confirm(message, exchange, routing_key)
        except MessageNacked:
            assert time.monotonic() < deadline, f"{routing_key!r} refuses a message for 30 s"
            time.sleep(0.05)
        else:
            return


def put_all(connection: Connection, messages: Sequence[tuple[bytes, dict[str, Any]]], queue: str) -> None:
    """Put bodies with their properties straight into a queue, and return once the broker has them all."""
    (body, properties), deadline = messages[0], time.monotonic() + 120
    put(connection.default_channel, amqp.Message(body, **properties), "", queue)
    channel = ConfirmChannel.of(connection.connection)
    for start in range(1, len(messages), _AT_ONCE):
        tags = [channel.publish(*message, "", queue) for message in messages[start : start + _AT_ONCE]]
        assert {channel.wait(tag, deadline).outcome for tag in tags} == {ConfirmOutcome.CONFIRMED}


def take(app: BrokerApp, queue: str) -> list[Message]:
    """Take all messages out of a queue, in the order in which a consumer gets them."""
    with app.connection_for_write() as connection:
        channel, found = connection.default_channel, []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(channel.message_to_python(message))
        return found


def delete(app: BrokerApp, *queues: str) -> int:
    """Delete queues with their messages, and return how many messages that was."""
    with app.connection_for_write() as connection:
        return sum(connection.default_channel.queue_delete(queue) for queue in queues)
