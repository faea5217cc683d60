"""The arithmetic of the delay lanes, over the whole range of delays and names."""

from __future__ import annotations

import math

import pytest
from entities import arguments_of
from hypothesis import assume, example, given
from hypothesis import strategies as st
from topics import matches

from broker_app.queues import (
    InvalidDelay,
    InvalidQueueName,
    Lane,
    Names,
    lane_topology,
    split_delay,
    work_topology,
)
from broker_app.queues.delay import (
    MAX_DELAY_DAYS,
    MAX_DELAY_SECONDS,
    UNITS,
    Delay,
    due_pattern,
    parse_lane,
    parse_routing_key,
)
from broker_app.queues.spec import AMQP_SHORT_STRING_BYTES, MAX_QUEUE_NAME_BYTES, check_queue_name

DAY_SECONDS = 86_400
LONGEST_NAME = "q" * MAX_QUEUE_NAME_BYTES
MILLISECONDS_OF_THE_LONGEST_TTL = 315_360_000_000
"""RabbitMQ answers 406 (value_too_large) to a larger ``x-message-ttl``; test_delays.py asks it."""

seconds = st.one_of(
    st.integers(0, MAX_DELAY_SECONDS),
    st.integers(0, 200_000),
    st.floats(0, MAX_DELAY_SECONDS + 1, exclude_max=True, allow_subnormal=True),
    st.floats(0, 100_000),
)


def _is_taken(name: str) -> bool:
    try:
        check_queue_name(name)
    except InvalidQueueName:
        return False
    return True


words = st.sampled_from(["a", "b", "lopri", "default", "0d", "0s", "1s", "10s", "5m", "2h", "3d", "x-1", "dead"])
names = st.lists(words, min_size=1, max_size=6).map(".".join).filter(_is_taken)


def _exchanges() -> dict[str, list[tuple[str, str]]]:
    """Return pattern and destination by source exchange, of the exchanges that hand on to exchanges."""
    bindings: dict[str, list[tuple[str, str]]] = {}
    for binding in work_topology([], "").exchange_bindings:
        bindings.setdefault(binding.source, []).append((binding.key, binding.destination))
    return bindings


def _walk(delay: Delay, key: str, known: set[Lane]) -> list[str]:
    """Follow a key through the lanes' bindings as the broker would, and return the queues that it waits in."""
    topology = lane_topology(sorted(known), "")
    to_queues: dict[str, list[tuple[str, str]]] = {}
    for binding in topology.queue_bindings:
        to_queues.setdefault(binding.source, []).append((binding.key, binding.destination))
    onward = {queue.name: arguments_of(queue)["x-dead-letter-exchange"] for queue in topology.queues}
    exchange, visited = Names().delay, []
    while exchange != Names().due:
        queues = [queue for pattern, queue in to_queues.get(exchange, []) if matches(pattern, key)]
        exchanges = [name for pattern, name in _exchanges().get(exchange, []) if matches(pattern, key)]
        assert len(queues) + len(exchanges) == 1, (exchange, key, queues, exchanges)
        visited += queues
        exchange = onward[queues[0]] if queues else exchanges[0]
    assert len(visited) == len(delay.lanes)
    return visited


@given(seconds)
@example(0)
@example(0.05)
@example(0.3)
@example(math.nextafter(0.3, 0))
@example(2.3)
@example(86_400.7)
@example(1)
@example(59.999999)
@example(90)
@example(MAX_DELAY_SECONDS)
@example(math.nextafter(MAX_DELAY_SECONDS + 1, 0))
def test_the_lanes_and_the_fraction_add_up_to_the_delay(wanted: float) -> None:
    """Nothing is lost or rounded: the lanes' delays and the rest add up to the requested delay."""
    delay = split_delay(wanted)
    assert delay.seconds == wanted
    held = sum(lane.milliseconds for lane in delay.lanes) / 1_000
    assert held <= wanted
    assert 0 <= delay.fraction < (0.1 if wanted < DAY_SECONDS else 1)


@given(seconds)
def test_a_delay_has_at_most_four_lanes_each_of_its_unit(wanted: float) -> None:
    """Four hops at most, the longest unit first, none zero and none as long as the next longer unit."""
    lanes = split_delay(wanted).lanes
    assert len(lanes) <= 4
    assert [lane.level for lane in lanes] == sorted({lane.level for lane in lanes})
    for lane in lanes:
        assert lane.count >= UNITS[lane.level].step
        assert lane.level == 0 or lane.milliseconds < UNITS[lane.level - 1].milliseconds


@given(seconds)
def test_no_lane_asks_for_a_time_to_live_that_the_broker_refuses(wanted: float) -> None:
    """Every lane of every delay can be declared: its TTL in milliseconds is within RabbitMQ's bound."""
    queues = lane_topology(split_delay(wanted).lanes, "").queues
    assert all(0 < arguments_of(queue)["x-message-ttl"] <= MILLISECONDS_OF_THE_LONGEST_TTL for queue in queues)


@given(seconds)
def test_a_key_fits_amqp_with_the_longest_name(wanted: float) -> None:
    """The routing key of any delay is at most 255 bytes, also for the longest queue name that is taken."""
    assert len(split_delay(wanted).routing_key(LONGEST_NAME).encode()) <= AMQP_SHORT_STRING_BYTES


@given(seconds, names)
def test_a_key_can_be_read_back(wanted: float, queue: str) -> None:
    """Delay and queue can be read from the key, whatever dots and words the queue's name has."""
    delay = split_delay(wanted)
    assert parse_routing_key(delay.routing_key(queue)) == (Delay(delay.lanes, 0.0), queue)


@given(seconds, names, st.lists(seconds, max_size=8))
def test_a_key_passes_its_own_lanes_and_no_others(wanted: float, queue: str, others: list[float]) -> None:
    """Entered at the first exchange, a message visits exactly the lanes of its delay, whatever lanes exist."""
    delay = split_delay(wanted)
    assume(delay.lanes)
    known = set(delay.lanes).union(*(split_delay(other).lanes for other in others))
    assert _walk(delay, delay.routing_key(queue), known) == [lane.name for lane in delay.lanes]


@given(st.integers(1, MAX_DELAY_SECONDS), names, names)
def test_a_due_key_reaches_its_queue_and_no_other(wanted: int, queue: str, other: str) -> None:
    """Names that end alike, hold dots, or read like lanes do not catch each other's due messages."""
    key = split_delay(wanted).routing_key(queue)
    assert matches(due_pattern(queue), key)
    assert matches(due_pattern(other), key) == (other == queue)


@given(st.integers(1, MAX_DELAY_SECONDS), st.integers(1, MAX_DELAY_SECONDS), names)
def test_an_entry_pattern_matches_its_own_first_lane_only(one: int, other: int, queue: str) -> None:
    """A lane takes from the entry exchange what begins with it, and nothing that waits for something longer."""
    first = split_delay(one).lanes[0]
    delay = split_delay(other)
    assert matches(first.entry_pattern, delay.routing_key(queue)) == (delay.lanes[0] == first)


@given(st.integers(1, MAX_DELAY_SECONDS), st.integers(1, MAX_DELAY_SECONDS), names)
def test_a_hop_pattern_matches_exactly_the_keys_that_hold_its_lane(one: int, other: int, queue: str) -> None:
    """At its own level a lane takes what has its word at its place, and nothing else."""
    delay = split_delay(other)
    for lane in split_delay(one).lanes:
        assert matches(lane.hop_pattern, delay.routing_key(queue)) == (lane in delay.lanes)


@pytest.mark.parametrize("past", [0, -1, -0.5, -1e9])
def test_a_moment_in_the_past_is_now(past: float) -> None:
    """Zero and below needs no lane and no timer."""
    assert split_delay(past) == Delay((), 0.0)


@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, -math.inf, MAX_DELAY_SECONDS + 1, MAX_DELAY_SECONDS + 1.0, 1e300, 10**400]
)
def test_a_delay_without_end_is_refused(wrong: float) -> None:
    """NaN, infinity and delays beyond the longest lane are refused with the bound in the message."""
    with pytest.raises(InvalidDelay, match=rf"up to {MAX_DELAY_SECONDS} \({MAX_DELAY_DAYS} days\)"):
        split_delay(wrong)


@pytest.mark.parametrize(
    ("delay", "lanes"),
    [
        (0.05, []),
        (0.3, ["delay.300ms"]),
        (10, ["delay.10s"]),
        (90, ["delay.1m", "delay.30s"]),
        (3_600, ["delay.1h"]),
        (86_400 + 3_600 + 60 + 1, ["delay.1d", "delay.1h", "delay.1m", "delay.1s"]),
        (2.3, ["delay.2s", "delay.300ms"]),
        (86_400.5, ["delay.1d"]),
        (61, ["delay.1m", "delay.1s"]),
    ],
)
def test_a_delay_is_written_in_the_units_that_people_choose(delay: float, lanes: list[str]) -> None:
    """Ten seconds and an hour are one lane each; a minute and a half is two; tenths count below a day."""
    assert [lane.name for lane in split_delay(delay).lanes] == lanes


def test_a_key_reads_as_the_documents_show_it() -> None:
    """The key carries all five units and then the queue: what a person sees in a trace can be read."""
    assert split_delay(90).routing_key("lopri") == "0d.0h.1m.30s.0ms.lopri"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "lopri",
        "0d.0h.1m.30s.0ms",
        "0d.0h.1m.30s.q",
        "0h.0d.0m.1s.0ms.q",
        "0d.0h.0m.s.0ms.q",
        "-1d.0h.0m.0s.0ms.q",
        "0d.0h.0m.٣s.0ms.q",
        "0d.0h.0m.1.0ms.q",
        "0d.0h.0m.1s.50ms.q",
    ],
)
def test_a_key_that_no_delay_made_is_refused(key: str) -> None:
    """A key that does not start with five counts in their order is not a delay."""
    with pytest.raises(InvalidDelay):
        parse_routing_key(key)


@pytest.mark.parametrize(
    "word", ["10s", "5m", "2h", "3d", f"{MAX_DELAY_DAYS}d", "59s", "59m", "23h", "100ms", "900ms"]
)
def test_a_lane_can_be_written_by_hand(word: str) -> None:
    """The word of a lane leads back to the lane."""
    assert parse_lane(word).word == word


@pytest.mark.parametrize(
    "word",
    [
        "",
        "s",
        "0s",
        "90s",
        "60m",
        "24h",
        f"{MAX_DELAY_DAYS + 1}d",
        "-1s",
        "1.5s",
        "1w",
        " 1s",
        "²s",
        "s1",
        "1S",
        "50ms",
        "ms",
    ],
)
def test_a_word_that_is_no_single_lane_is_refused(word: str) -> None:
    """Ninety seconds are two lanes: the message says how far each unit goes."""
    with pytest.raises(InvalidDelay, match=r"1\.\.59s"):
        parse_lane(word)
