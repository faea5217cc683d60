"""Removable delay lanes: empty ones that no message on its way may still need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_app.broker.delay_lanes import TRUST_SECONDS, every
from broker_app.queues import Lane, split_delay
from broker_app.queues.delay import MAX_DELAY_SECONDS, parse_lane
from broker_app.topology.prune import SHORTEST_HOP_SECONDS, PruneTimeouts, removable

LANES = every()


@given(
    delays=st.lists(st.tuples(st.integers(1, MAX_DELAY_SECONDS), st.integers(0, 3))),
    keep=st.sets(st.sampled_from(LANES), max_size=5),
)
def test_no_lane_goes_that_a_message_still_needs(delays: list[tuple[int, int]], keep: set[Lane]) -> None:
    """Wherever the messages are: the rest of each message's path stays, and the lanes to keep."""
    in_use, needed = dict.fromkeys(LANES, 0), set(keep)
    for delay, step in delays:
        way = split_delay(delay).lanes[min(step, len(split_delay(delay).lanes) - 1) :]
        in_use |= {lane: in_use.get(lane, 0) for lane in way}
        in_use[way[0]] += 1
        needed.update(way)
    assert not needed & set(removable(in_use, keep))


def test_without_messages_every_lane_may_go() -> None:
    """Longest first, so that a removed lane is never needed by a remaining one."""
    assert removable(dict.fromkeys(reversed(LANES), 0)) == tuple(LANES)


def test_lanes_of_the_same_unit_do_not_need_each_other() -> None:
    """A message goes through one lane of a unit at most: the empty lanes of a used one's unit may be removed."""
    words = {"2d": 0, "3h": 1, "4h": 0, "5m": 0, "6s": 0}
    found = removable({parse_lane(word): count for word, count in words.items()})
    assert [lane.word for lane in found] == ["2d", "4h"]


def test_the_waits_leave_time_to_declare_a_lane_again() -> None:
    """All waits from the first look on end before the first message can come out of a lane of a minute."""
    waits = PruneTimeouts()
    assert waits.count + waits.declare + waits.settle + waits.trust < SHORTEST_HOP_SECONDS * 0.75
    assert waits.trust > TRUST_SECONDS
    assert waits.shortest_lane > waits.count + waits.declare + waits.settle
