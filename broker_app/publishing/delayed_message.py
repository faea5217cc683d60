"""The delay of a message that is not sent yet: it takes shorter lanes as time passes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.queues.delay import NO_DELAY, Delay, rest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.queues import QueueSpec

    Way = Callable[[QueueSpec, Delay], tuple[str, str]]


@dataclass(slots=True, kw_only=True)
class DelayedMessage:
    """A message whose delay may pass in part before it is sent.

    Attributes:
        spec: The target queue; None for a foreign exchange, or if the message was refused.
        delay: How long it waits in the broker first.
        due: When its delay ends, on the clock of `time.monotonic`; None if it has none.
        asked: The requested delay, if `delay` is what was left of it.
    """

    spec: QueueSpec | None = None
    delay: Delay = NO_DELAY
    due: float | None = None
    asked: Delay | None = None

    @property
    def is_behind(self) -> bool:
        """True if enough of the delay has passed that the rest needs other lanes."""
        return self.due is not None and rest_of(self.delay, self.due - time.monotonic()) is not self.delay

    def catch_up(self, way: Way) -> bool:
        """Shorten the delay to the time left, and return whether the route changed.

        Args:
            way: `broker_app.publishing.message.MessageBuilder.way`.
        """
        if self.due is None or self.spec is None:
            return False
        left = rest_of(self.delay, self.due - time.monotonic())
        if left is self.delay:
            return False
        self.asked = self.asked or self.delay
        self.delay = left
        self._redirect(*way(self.spec, left))
        return True

    def wait_in_full(self, way: Way) -> bool:
        """Take the requested delay again, and return whether it had been shortened.

        A user without the permission to declare lanes can use only existing ones, such as ``common_lanes``. The
        rest of a delay needs others, so the task is late by the time that has passed.

        Args:
            way: As of `catch_up`.
        """
        if self.asked is None or self.spec is None:
            return False
        self.delay, self.asked, self.due = self.asked, None, None
        self._redirect(*way(self.spec, self.delay))
        return True

    def _redirect(self, exchange: str, routing_key: str) -> None:
        """Change where the message is published to."""
        raise NotImplementedError
