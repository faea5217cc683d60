"""Delay lanes: how a countdown waits in the broker, as arithmetic.

A delay is written in the units that people choose: days, hours, minutes, seconds, and tenths of a second. Each
unit that is not zero is one *lane*, a queue whose messages expire after just that time: 90 s is ``delay.1m`` and
then ``delay.30s``. The routing key carries the whole path and the queue at its end::

    0d.0h.1m.30s.0ms.lopri

It is published to the exchange ``delay``, which knows the first lane of every path. A lane dead-letters
into the next unit's exchange (``delay.h``, ``delay.m``, ``delay.s``, ``delay.ms``), which hands zeros on, and the
last one into ``tasks.due``, where the same key reaches the queue. The key is never rewritten, so a retry's key
does not grow, and five words always stand before the queue's name, so no name catches another's messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from broker_app.queues.errors import InvalidDelay


class LaneUnit(NamedTuple):
    """What the lanes of one level count.

    Attributes:
        name: As it stands behind the count.
        milliseconds: The length of its shortest lane, whole, so that nothing is rounded on the way to the broker.
        step: The count of its shortest lane.
    """

    name: str
    milliseconds: int
    step: int = 1


UNITS = (
    LaneUnit("d", 86_400_000),
    LaneUnit("h", 3_600_000),
    LaneUnit("m", 60_000),
    LaneUnit("s", 1_000),
    LaneUnit("ms", 100, 100),
)
"""One a level, longest first."""

MAX_DELAY_DAYS = 3_650
"""The longest lane: RabbitMQ takes an ``x-message-ttl`` of at most 315,360,000,000 ms (rabbit_misc.erl)."""

MAX_DELAY_SECONDS = MAX_DELAY_DAYS * 86_400 + 86_399
"""The longest lane and the rest of one day: some ten years."""

LATE_SHARE = 0.02
"""The share of a delay that may pass before its message is published. Beyond that it gets the lanes of the rest;
not at once, since each lane that nobody else uses costs the broker a queue."""

_DAY_MILLISECONDS = UNITS[0].milliseconds
_TENTHS = UNITS[-1].milliseconds
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """One waiting room: every message in it waits the same time.

    Attributes:
        level: Index into `UNITS`, 0 for days.
        count: As it is written; at least the unit's step, and a multiple of it.
    """

    level: int
    count: int

    @property
    def word(self) -> str:
        """Its word in a routing key: ``30s``."""
        return f"{self.count}{UNITS[self.level].name}"

    @property
    def name(self) -> str:
        """The lane's queue, without the broker's prefix: ``delay.30s``."""
        return f"delay.{self.word}"

    @property
    def milliseconds(self) -> int:
        """How long a message stays in it."""
        unit = UNITS[self.level]
        return self.count // unit.step * unit.milliseconds

    @property
    def seconds(self) -> float:
        """How long a message stays in it."""
        return self.milliseconds / 1_000

    @property
    def entry_pattern(self) -> str:
        """What binds it to the entry exchange: all longer units are zero."""
        zeros = [f"0{unit.name}" for unit in UNITS[: self.level]]
        return ".".join([*zeros, self.word, "#"])

    @property
    def hop_pattern(self) -> str:
        """What binds it to its level's exchange: the longer units have been waited for."""
        return ".".join(["*"] * self.level + [self.word, "#"])


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay, split into what the broker's lanes hold and what is left for the worker's timer.

    Attributes:
        lanes: Longest first, at most four; empty for a delay below a tenth of a second.
        fraction: The rest in seconds: below 0.1, or below 1 for a delay of days, whose lanes end at seconds.
    """

    lanes: tuple[Lane, ...]
    fraction: float

    @property
    def seconds(self) -> float:
        """The whole delay."""
        return sum(lane.milliseconds for lane in self.lanes) / 1_000 + self.fraction

    def routing_key(self, queue: str) -> str:
        """Return the key that leads through the lanes to ``queue`` (its name on the broker)."""
        counts = {lane.level: lane.count for lane in self.lanes}
        words = [f"{counts.get(level, 0)}{unit.name}" for level, unit in enumerate(UNITS)]
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
    if seconds <= 0:
        return Delay((), 0.0)
    held = _held_milliseconds(seconds)
    return Delay(_lanes(held), seconds - held / 1_000)


def rest_of(delay: Delay, left_seconds: float) -> Delay:
    """Return what is left of a delay: the delay itself, as long as no more than `LATE_SHARE` is over.

    Args:
        delay: What was asked for.
        left_seconds: How far away the moment is at which it ends; it may be over.
    """
    if not delay.lanes or delay.seconds - left_seconds < max(_TENTHS / 1_000, LATE_SHARE * delay.seconds):
        return delay
    return split_rest(left_seconds)


def split_rest(left_seconds: float) -> Delay:
    """Split what is left of a delay, rounded up: its lanes hold all of it, so that it is never early."""
    step = _TENTHS if left_seconds < _DAY_MILLISECONDS / 1_000 else UNITS[-2].milliseconds
    return split_delay(math.ceil(left_seconds * 1_000 / step - _ROUNDING) * step / 1_000)


def parse_routing_key(key: str) -> tuple[Delay, str]:
    """Return the delay and the queue's broker name that a key was made from.

    Raises:
        InvalidDelay: The key is not one that `Delay.routing_key` makes.
    """
    words = key.split(".", len(UNITS))
    if len(words) != len(UNITS) + 1:
        raise InvalidDelay(f"a delay's routing key must have five words before the queue, got {key!r}")
    lanes = []
    for level, (unit, word) in enumerate(zip(UNITS, words, strict=False)):
        count = _count(word, unit)
        if count is None:
            raise InvalidDelay(f"a delay's routing key must read like 0d.0h.1m.30s.0ms.queue, got {key!r}")
        if count:
            lanes.append(Lane(level, count))
    return Delay(tuple(lanes), 0.0), words[-1]


def due_pattern(queue: str) -> str:
    """Return what binds a queue (its broker name) to ``tasks.due``: five words, then its name."""
    return ".".join(["*"] * len(UNITS) + [queue])


def parse_lane(word: str) -> Lane:
    """Return the lane that a person writes as ``300ms``, ``10s``, ``5m``, ``2h`` or ``3d``.

    Raises:
        InvalidDelay: Not a whole number and one of the units d, h, m, s, ms, or more than its unit holds
            (``90s`` is two lanes: ``1m`` and ``30s``).
    """
    for level, unit in enumerate(UNITS):
        lane = Lane(level, _count(word, unit) or 0)
        if 0 < lane.milliseconds < MAX_DELAY_SECONDS * 1_000 and _lanes(lane.milliseconds) == (lane,):
            return lane
    raise InvalidDelay(
        f"a lane must be 1..{MAX_DELAY_DAYS}d, 1..23h, 1..59m, 1..59s, or 100, 200..900ms, got {word!r}"
    )


def _held_milliseconds(seconds: float) -> int:
    """Return how much of a delay its lanes hold: down to tenths of a second, in at most four lanes.

    A delay of days may need all of the longer units, and nobody plans days ahead to the tenth of a second.
    """
    if seconds * 1_000 >= _DAY_MILLISECONDS:
        return math.floor(seconds) * 1_000
    tenths = math.floor(seconds * 10)
    if tenths / 10 > seconds:  # the product was rounded up to a whole number
        tenths -= 1
    return tenths * _TENTHS


def _lanes(milliseconds: int) -> tuple[Lane, ...]:
    """Return the lanes that add up to a time, longest first."""
    lanes, rest = [], milliseconds
    for level, unit in enumerate(UNITS):
        count, rest = divmod(rest, unit.milliseconds)
        if count:
            lanes.append(Lane(level, count * unit.step))
    return tuple(lanes)


def _count(word: str, unit: LaneUnit) -> int | None:
    """Return the count in front of a unit, or None if the word is not one of the unit's."""
    digits = word.removesuffix(unit.name)
    if digits == word or not (digits.isascii() and digits.isdigit()) or int(digits) % unit.step:
        return None
    return int(digits)
