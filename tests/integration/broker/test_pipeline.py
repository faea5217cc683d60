"""Pipelined requests: how their channels are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from amqp import spec
from kombu.connection import Connection

from broker_app.broker import pipeline
from broker_app.broker.declare import queue_exists

if TYPE_CHECKING:
    from amqp import Channel

OURS, THEIRS = "sent", "received"
CLOSING = {spec.Channel.Close: "close", spec.Channel.CloseOk: "confirmation"}


class NotingChannel(pipeline._Channel):
    """Notes what is sent and received of the closing."""

    steps: list[tuple[str, str]]

    def send_method(self, sig: tuple[int, int], *args: Any, **options: Any) -> None:
        """Note what is sent."""
        if sig in CLOSING:
            self.steps.append((OURS, CLOSING[sig]))
        super().send_method(sig, *args, **options)

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        """Note what is received."""
        if method_sig in CLOSING:
            self.steps.append((THEIRS, CLOSING[method_sig]))
        super().dispatch_method(method_sig, payload, content)


@pytest.mark.version
def test_a_refused_channel_is_confirmed_last(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that gets close and confirmation at once may end the channel without an answer of its own."""
    steps: list[tuple[str, str]] = []
    monkeypatch.setattr(NotingChannel, "steps", steps, raising=False)
    monkeypatch.setattr(pipeline, "_Channel", NotingChannel)
    with Connection(vhost_url) as connection:
        raw = connection.connection
        assert not queue_exists(raw, "missing")
        assert steps == [(OURS, "close"), (THEIRS, "close"), (THEIRS, "confirmation"), (OURS, "confirmation")]
        channel: Channel = raw.channel()  # the same number again
        assert channel.queue_declare(exclusive=True).message_count == 0
