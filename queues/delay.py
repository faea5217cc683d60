"""Delay lanes: how a countdown waits in the broker, as arithmetic.

A delay is written in the units that people choose: days, hours, minutes, seconds. Each unit that is not
zero is one *lane*, a queue whose messages expire after just that time: 90 s is ``delay.1m`` and then
``delay.30s``. The routing key carries the whole path and the queue at its end::

    0d.0h.1m.30s.lopri

It is published to the exchange ``delay``, which knows the first lane of every path. A lane dead-letters
into the next unit's exchange (``delay.h``, ``delay.m``, ``delay.s``), which hands zeros on, and the last
one into ``tasks.due``, where the same key reaches the queue. The key is never rewritten, so a retry's key
does not grow, and four words always stand before the queue's name, so no name catches another's messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from queues.errors import InvalidDelay

UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
"""Letter and length in seconds of each level, longest first."""

MAX_DELAY_DAYS = 3_650
"""The longest lane: RabbitMQ takes an ``x-message-ttl`` of at most 315,360,000,000 ms (rabbit_misc.erl)."""

MAX_DELAY_SECONDS = MAX_DELAY_DAYS * 86_400 + 86_399
"""The longest lane and the rest of one day: some ten years."""


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """One waiting room: every message in it waits the same time.

    Attributes:
        level: Index into `UNITS`, 0 for days.
        count: How many of the unit; at least 1.
    """

    level: int
    count: int

    @property
    def word(self) -> str:
        """Its word in a routing key: ``30s``."""
        return f"{self.count}{UNITS[self.level][0]}"

    @property
    def name(self) -> str:
        """The lane's queue, without the broker's prefix: ``delay.30s``."""
        return f"delay.{self.word}"

    @property
    def seconds(self) -> int:
        """How long a message stays in it."""
        return self.count * UNITS[self.level][1]

    @property
    def entry_pattern(self) -> str:
        """What binds it to the entry exchange: all longer units are zero."""
        zeros = [f"0{letter}" for letter, _ in UNITS[: self.level]]
        return ".".join([*zeros, self.word, "#"])

    @property
    def hop_pattern(self) -> str:
        """What binds it to its level's exchange: the longer units have been waited for."""
        return ".".join(["*"] * self.level + [self.word, "#"])


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay, split into what the broker's lanes hold and what is left for the worker's timer.

    Attributes:
        lanes: Longest first, at most four; empty for a delay below one second.
        fraction: The rest, 0 <= fraction < 1, in seconds.
    """

    lanes: tuple[Lane, ...]
    fraction: float

    @property
    def seconds(self) -> float:
        """The whole delay."""
        return sum(lane.seconds for lane in self.lanes) + self.fraction

    def routing_key(self, queue: str) -> str:
        """Return the key that leads through the lanes to ``queue`` (its name on the broker)."""
        counts = {lane.level: lane.count for lane in self.lanes}
        words = [f"{counts.get(level, 0)}{letter}" for level, (letter, _) in enumerate(UNITS)]
        return ".".join([*words, queue])


def split_delay(seconds: float) -> Delay:
    """Split a delay into lanes and a fraction of a second.

    Args:
        seconds: 0 and below is now. The bound is `MAX_DELAY_SECONDS`, some ten years.

    Raises:
        InvalidDelay: NaN, infinite or beyond the bound.
    """
    if not -math.inf < seconds < MAX_DELAY_SECONDS + 1:  # false for NaN too, and no overflow of a huge int
        raise InvalidDelay(
            f"a delay must be a finite number of seconds up to {MAX_DELAY_SECONDS} ({MAX_DELAY_DAYS} days), "
            f"got {seconds!r}"
        )
    whole = math.floor(seconds)
    if seconds <= 0:
        return Delay((), 0.0)
    lanes, rest = [], whole
    for level, (_, length) in enumerate(UNITS):
        count, rest = divmod(rest, length)
        if count:
            lanes.append(Lane(level, count))
    return Delay(tuple(lanes), seconds - whole)


def parse_routing_key(key: str) -> tuple[Delay, str]:
    """Return the delay and the queue's broker name that a key was made from.

    Raises:
        InvalidDelay: The key is not one that `Delay.routing_key` makes.
    """
    words = key.split(".", len(UNITS))
    if len(words) != len(UNITS) + 1:
        raise InvalidDelay(f"a delay's routing key must have four words before the queue, got {key!r}")
    lanes = []
    for level, ((letter, _), word) in enumerate(zip(UNITS, words, strict=False)):
        if not (word.endswith(letter) and word[:-1].isascii() and word[:-1].isdigit()):
            raise InvalidDelay(f"a delay's routing key must read like 0d.0h.1m.30s.queue, got {key!r}")
        if count := int(word[:-1]):
            lanes.append(Lane(level, count))
    return Delay(tuple(lanes), 0.0), words[-1]


def due_pattern(queue: str) -> str:
    """Return what binds a queue (its broker name) to ``tasks.due``: four words, then its name."""
    return ".".join(["*"] * len(UNITS) + [queue])


def parse_lane(word: str) -> Lane:
    """Return the lane that a person writes as ``10s``, ``5m``, ``2h`` or ``3d``.

    Raises:
        InvalidDelay: Not a whole number and one of the letters d, h, m, s, or more than its unit holds
            (``90s`` is two lanes: ``1m`` and ``30s``).
    """
    letters = [letter for letter, _ in UNITS]
    if word[-1:] in letters and word[:-1].isascii() and word[:-1].isdigit():
        lane = Lane(letters.index(word[-1]), int(word[:-1]))
        delay = split_delay(min(lane.seconds, MAX_DELAY_SECONDS))
        if delay.lanes == (lane,):
            return lane
    raise InvalidDelay(f"a lane must be 1..{MAX_DELAY_DAYS}d, 1..23h, 1..59m or 1..59s, got {word!r}")
