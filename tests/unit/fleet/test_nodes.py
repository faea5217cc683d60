"""The nodes of the settings, and their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app.errors import FleetError, UnknownQueue
from broker_app.fleet.nodes import node_of, wanted_fleets
from broker_app.settings import FleetSettings, QueueSettings, Settings

NAMES = st.from_regex(r"[a-z0-9_-]{1,10}(\.[a-z0-9_-]{1,10}){0,2}", fullmatch=True)


def settings(queues: dict[str, int], prefix: str = "") -> Settings:
    """Return settings with a number of nodes for each queue."""
    tables = {name: QueueSettings(fleet=FleetSettings(nodes=nodes)) for name, nodes in queues.items()}
    return Settings(queues=tables, default_queue=next(iter(queues)), prefix=prefix)


def stems(made: Settings) -> list[str]:
    """Return the nodes' names before the host."""
    return [node.stem for fleet in wanted_fleets(made) for node in fleet.nodes]


def test_names_stay_when_the_number_of_nodes_changes() -> None:
    """The first node has the queue's name, further ones a number: growing or shrinking renames nothing."""
    assert stems(settings({"lopri": 1})) == ["lopri"]
    assert stems(settings({"lopri": 3})) == ["lopri", "lopri+2", "lopri+3"]


def test_no_nodes_is_a_fleet_without_nodes() -> None:
    """With nodes = 0 the settings run none on this host."""
    (fleet,) = wanted_fleets(settings({"lopri": 0}))
    assert fleet.nodes == ()


def test_a_selection_keeps_the_order_of_the_settings_and_counts_a_queue_once() -> None:
    """Queues may be named in any order, twice, and with the prefix of the broker."""
    made = settings({"a": 1, "b": 1, "c": 1}, prefix="shop.")
    assert [fleet.queue for fleet in wanted_fleets(made, ["c", "shop.a", "c"])] == ["a", "c"]


def test_an_unknown_queue_is_refused() -> None:
    """A queue that the settings do not declare has no fleet."""
    with pytest.raises(UnknownQueue):
        wanted_fleets(settings({"a": 1}), ["b"])


@given(
    st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=5), st.sampled_from(["", "shop.", "-", "lopri"])
)
def test_nodes_are_distinct_and_lead_back_to_their_queue(queues: dict[str, int], prefix: str) -> None:
    """No two nodes share a name, none looks like an option, and a pid file's name contains the queue."""
    try:
        made = settings(queues, prefix)
    except ValueError:
        return  # a reserved name
    nodes = [node for fleet in wanted_fleets(made) for node in fleet.nodes]
    assert len({node.name for node in nodes}) == len(nodes)
    assert not any(node.name.startswith("-") for node in nodes)
    assert all(node_of(made, node.stem) == node for node in nodes)


def test_a_node_of_a_queue_that_is_gone_still_has_a_queue() -> None:
    """A queue removed from the settings is named by its pid file, without the prefix."""
    made = settings({"a": 1}, prefix="shop.")
    assert node_of(made, "shop.old+2").queue == "old"
    assert node_of(made, "shop.old").queue == "old"


def test_long_names_fit_into_a_control_queue_and_a_file() -> None:
    """The longest queue's nodes have names that AMQP and the file system take, each its own."""
    names = ["q" * 226 + end for end in "ab"]
    made = settings(dict.fromkeys(names, 2), prefix="shop.")
    for fleet in wanted_fleets(made):
        for node in fleet.nodes:
            assert len(f"{node.name}.shop.celery.pidbox") <= 255
            assert node_of(made, node.stem) == node
    assert len(set(stems(made))) == 4


def test_a_prefix_that_no_worker_can_carry_is_refused() -> None:
    """A prefix that leaves no room in the control queue's name is an error that says by how much."""
    with pytest.raises(FleetError, match=r"prefix of 230; shorten it by \d+"):
        wanted_fleets(settings({"a": 1}, prefix="p" * 230))
