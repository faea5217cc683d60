"""From a task or a queue's name to a declared queue."""

from __future__ import annotations

import pytest

from broker_app.queues import QueueSpec, RoutingTable, UnknownQueue


def _table(prefix: str = "", **patterns: str) -> RoutingTable:
    specs = [QueueSpec(name, prefix=prefix) for name in ("default", "lopri", "reports.daily")]
    return RoutingTable({spec.name: spec for spec in specs}, "default", patterns)


def test_a_declared_queue_is_found_by_its_name() -> None:
    """Producers write the name that is in the settings."""
    assert _table().queue("lopri").name == "lopri"


def test_a_queue_is_found_by_its_name_on_the_broker_too() -> None:
    """A retried task knows the key that it came by, with the prefix."""
    assert _table("shop.").queue("shop.lopri") == _table("shop.").queue("lopri")


@pytest.mark.parametrize(
    ("typo", "meant"), [("lopr", "lopri"), ("Default", "default"), ("report.daily", "reports.daily")]
)
def test_an_unknown_queue_is_refused_with_the_nearest_one(typo: str, meant: str) -> None:
    """The message names what was asked for, what there is, the nearest, and how to declare it."""
    with pytest.raises(UnknownQueue) as caught:
        _table().queue(typo)
    assert (caught.value.queue, caught.value.known) == (typo, ("default", "lopri", "reports.daily"))
    assert str(caught.value) == (
        f"queue {typo!r}: expected one of default, lopri, reports.daily (did you mean {meant!r}?); "
        f"declare it as [queues.{typo}] in the settings file or correct the name"
    )


def test_a_name_that_is_like_no_other_gets_no_guess() -> None:
    """A far-fetched guess would mislead."""
    with pytest.raises(UnknownQueue) as caught:
        _table().queue("zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_an_exact_name_wins_over_every_pattern() -> None:
    """Whatever the order in the settings."""
    table = _table(**{"shop.*": "lopri", "*": "default", "shop.report": "reports.daily"})
    found = table.for_task("shop.report")
    assert found is not None
    assert found.name == "reports.daily"


def test_the_first_matching_pattern_wins() -> None:
    """Earlier lines in the settings win over later ones."""
    found = _table(**{"shop.*": "lopri", "*": "default"}).for_task("shop.report")
    assert found is not None
    assert found.name == "lopri"


def test_a_task_that_no_pattern_names_is_left_to_its_own_default() -> None:
    """None is the answer then, and not the default queue: the task itself may name one."""
    assert _table(**{"shop.*": "lopri"}).for_task("other.report") is None
    assert _table().for_task("anything") is None


def test_a_pattern_is_about_case_and_the_whole_name() -> None:
    """`shop.*` is neither `Shop.x` nor `my.shop.x`."""
    table = _table(**{"shop.*": "lopri"})
    assert table.for_task("Shop.report") is None
    assert table.for_task("my.shop.report") is None


def test_a_pattern_for_a_queue_that_is_not_declared_is_refused() -> None:
    """The settings refuse it at load; a table made by hand does when it is used."""
    with pytest.raises(UnknownQueue):
        _table(**{"*": "nowhere"}).for_task("any")


def test_iterating_gives_the_specs_in_their_order() -> None:
    """Definitions and lists for people keep the order of the settings."""
    assert [spec.name for spec in _table()] == ["default", "lopri", "reports.daily"]
