"""Delay lanes: split a delay into broker queues whose TTLs add up to it.

A delay is split into days, hours, minutes, seconds and tenths of a second. Each non-zero unit is one *lane*, a
queue whose messages expire after that time: 90 s is ``delay.1m`` followed by ``delay.30s``. The routing key names
the full path and the destination queue::

    0d.0h.1m.30s.0ms.lopri

The message is published to the exchange ``delay``, which routes it to its first lane. A lane dead-letters into the
next unit's exchange (``delay.h``, ``delay.m``, ``delay.s``, ``delay.ms``), which forwards zeros to the following
one. The last lane dead-letters into ``tasks.due``, where the same key selects the queue. The key is never
rewritten, so it does not grow on a retry. It always has five words before the queue's name, so no binding matches
another queue's messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from broker_app.queues.errors import InvalidDelay


class LaneUnit(NamedTuple):
    """The time unit of one level.

    Attributes:
        name: The suffix of a count: the ``s`` of ``30s``.
        milliseconds: TTL of the shortest lane; an integer, so that no TTL needs rounding.
        step: Count of the shortest lane.
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
"""One unit per level, longest first."""

MAX_DELAY_DAYS = 3_650
"""The longest lane: RabbitMQ accepts an ``x-message-ttl`` of at most 315,360,000,000 ms (rabbit_misc.erl)."""

MAX_DELAY_SECONDS = MAX_DELAY_DAYS * 86_400 + 86_399
"""The longest delay: the longest lane plus 23:59:59, about ten years."""

LATE_SHARE = 0.02
"""Share of a delay that may pass before its message is published. After that the remaining time is split into
lanes. Not earlier, because each unusual lane costs the broker a queue."""

_DAY_MILLISECONDS = UNITS[0].milliseconds
_TENTHS = UNITS[-1].milliseconds
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """One lane. Every message in it waits for the same time.

    Attributes:
        level: Index into `UNITS`, 0 for days.
        count: Number of units, e.g. the 30 of ``30s``; a positive multiple of the unit's step.
    """

    level: int
    count: int

    @property
    def word(self) -> str:
        """The lane's word in a routing key: ``30s``."""
        return f"{self.count}{UNITS[self.level].name}"

    @property
    def name(self) -> str:
        """The name of the lane's queue, without the prefix: ``delay.30s``."""
        return f"delay.{self.word}"

    @property
    def milliseconds(self) -> int:
        """The lane's TTL in milliseconds."""
        unit = UNITS[self.level]
        return self.count // unit.step * unit.milliseconds

    @property
    def seconds(self) -> float:
        """The lane's TTL in seconds."""
        return self.milliseconds / 1_000

    @property
    def entry_pattern(self) -> str:
        """Binding pattern for the entry exchange: all longer units are zero."""
        zeros = [f"0{unit.name}" for unit in UNITS[: self.level]]
        return ".".join([*zeros, self.word, "#"])

    @property
    def hop_pattern(self) -> str:
        """Binding pattern for the exchange of the lane's level: the longer units have elapsed."""
        return ".".join(["*"] * self.level + [self.word, "#"])


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay, split into lanes on the broker and a remainder for the worker's timer.

    Attributes:
        lanes: Longest first, at most four; empty for a delay below a tenth of a second.
        fraction: The remainder in seconds: below 0.1, or below 1 for a delay of days, which has no lane of tenths.
    """

    lanes: tuple[Lane, ...]
    fraction: float

    @property
    def seconds(self) -> float:
        """The full delay in seconds."""
        return sum(lane.milliseconds for lane in self.lanes) / 1_000 + self.fraction

    def routing_key(self, queue: str) -> str:
        """Return the routing key that leads through the lanes to ``queue`` (its broker name)."""
        counts = {lane.level: lane.count for lane in self.lanes}
        words = [f"{counts.get(level, 0)}{unit.name}" for level, unit in enumerate(UNITS)]
        return ".".join([*words, queue])


NO_DELAY = Delay((), 0.0)
"""Straight into the queue."""


def split_delay(seconds: float) -> Delay:
    """Split a delay into lanes and a fraction of a second.

    Args:
        seconds: 0 or less means now. At most `MAX_DELAY_SECONDS`, about ten years.

    Raises:
        InvalidDelay: ``seconds`` is NaN, infinite or too large.
    """
    if not -math.inf < seconds < MAX_DELAY_SECONDS + 1:  # false for NaN too, and no overflow of a huge int
        raise InvalidDelay(
            f"a delay must be a finite number of seconds up to {MAX_DELAY_SECONDS} ({MAX_DELAY_DAYS} days), "
            f"got {seconds!r}"
        )
    if seconds <= 0:
        return NO_DELAY
    held = _held_milliseconds(seconds)
    return Delay(_lanes(held), seconds - held / 1_000)


def rest_of(delay: Delay, left_seconds: float) -> Delay:
    """Return the delay that remains: the original one, until more than `LATE_SHARE` of it has passed.

    Args:
        delay: The requested delay.
        left_seconds: Seconds until the delay ends; negative if it has ended.
    """
    if not delay.lanes or delay.seconds - left_seconds < max(_TENTHS / 1_000, LATE_SHARE * delay.seconds):
        return delay
    return split_rest(left_seconds)


def split_rest(left_seconds: float) -> Delay:
    """Split a remaining delay, rounded up so that its lanes cover all of it and the task is never early."""
    step = _TENTHS if left_seconds < _DAY_MILLISECONDS / 1_000 else UNITS[-2].milliseconds
    return split_delay(math.ceil(left_seconds * 1_000 / step - _ROUNDING) * step / 1_000)


def parse_routing_key(key: str) -> tuple[Delay, str]:
    """Return the delay and the broker name of the queue that a routing key contains.

    Raises:
        InvalidDelay: The key does not have the form that `Delay.routing_key` returns.
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
    """Return the pattern that binds a queue (its broker name) to ``tasks.due``: five words, then its name."""
    return ".".join(["*"] * len(UNITS) + [queue])


def parse_lane(word: str) -> Lane:
    """Parse a lane written as ``300ms``, ``10s``, ``5m``, ``2h`` or ``3d``.

    Raises:
        InvalidDelay: The text is not an integer and one of the units d, h, m, s, ms; or it needs a larger unit too
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
    """Return the part of a delay that its lanes cover: down to tenths of a second, in at most four lanes.

    A delay of a day or more may need all four longer units, so it gets no lane of tenths.
    """
    if seconds * 1_000 >= _DAY_MILLISECONDS:
        return math.floor(seconds) * 1_000
    tenths = math.floor(seconds * 10)
    if tenths / 10 > seconds:  # the product was rounded up to a whole number
        tenths -= 1
    return tenths * _TENTHS


def _lanes(milliseconds: int) -> tuple[Lane, ...]:
    """Return the lanes that add up to ``milliseconds``, longest first."""
    lanes, rest = [], milliseconds
    for level, unit in enumerate(UNITS):
        count, rest = divmod(rest, unit.milliseconds)
        if count:
            lanes.append(Lane(level, count * unit.step))
    return tuple(lanes)


def _count(word: str, unit: LaneUnit) -> int | None:
    """Return the count before the unit's name; None if the word does not use this unit."""
    digits = word.removesuffix(unit.name)
    if digits == word or not (digits.isascii() and digits.isdigit()) or int(digits) % unit.step:
        return None
    return int(digits)
