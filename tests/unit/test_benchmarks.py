"""The benchmarks' own arithmetic: statistics, goals, tables, turns."""

from __future__ import annotations

import pytest

from benchmarks.figures import Spread, percentile, ratio, shown
from benchmarks.report import Goal, Report, as_values, markdown, markdown_table
from benchmarks.rounds import alternate


def test_spread_shows_the_middle_and_both_ends() -> None:
    """Of several values the median, the smallest and the largest are shown, whatever their order."""
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=5.0)


def test_spread_of_nothing() -> None:
    """No value is an error and not a zero."""
    with pytest.raises(ValueError, match="at least one value"):
        Spread.of([])


def test_ratio_is_taken_within_each_round() -> None:
    """A round in which the machine was slow for both does not change the ratio."""
    assert ratio([20.0, 2.0, 30.0], [10.0, 1.0, 10.0]) == Spread(median=2.0, low=2.0, high=3.0)


def test_ratio_needs_whole_rounds() -> None:
    """Values that have no partner of the same round are refused."""
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    """A percentile is the smallest measured value that at least that share does not exceed."""
    assert percentile(range(100, 0, -1), percent) == expected


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_percentile_of_nothing_or_beyond(values: list[float], percent: float) -> None:
    """An empty row, or a share out of range, is an error."""
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


@pytest.mark.parametrize(
    ("value", "text"),
    [(7679.6, "7,680"), (12.34, "12.3"), (0.012345, "0.0123"), (0.0, "0"), (-3.456, "-3.46"), (1.0, "1.00")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    """A table shows no more digits than a measurement has."""
    assert shown(value) == text


@pytest.mark.parametrize(
    ("median", "is_ceiling", "is_met"),
    [(0.9, False, True), (0.89, False, False), (0.9, True, True), (0.91, True, False)],
)
def test_goal_is_judged_by_its_median(median: float, *, is_ceiling: bool, is_met: bool) -> None:
    """A goal is met at its bound and on the right side of it, and the sentence says so."""
    goal = Goal("this against that", Spread(median, 0.0, 9.0), 0.9, is_ceiling=is_ceiling)
    assert goal.is_met is is_met
    assert ("**not met**" in str(goal)) is not is_met


def test_table_is_markdown() -> None:
    """The first column reads from the left, the numbers behind it stand to the right."""
    assert markdown_table(["who", "a second"], [["us", "9"]]) == "| who | a second |\n| --- | ---: |\n| us | 9 |"


def test_table_with_a_cell_missing() -> None:
    """A row that does not fit its columns is an error, not a crooked table."""
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["who", "a second"], [["us"]])


def test_report_is_a_section_of_the_documents() -> None:
    """A report reads as heading, table, goal and note, and a script finds the same goal with its verdict."""
    goal = Goal("us against them", Spread(2.0, 2.0, 2.0), 1.2)
    report = Report(
        "who is faster", ("who", "a second"), (("us", "9"),), (goal,), "Both did the same.", {"us": [9]}
    )
    text = markdown("race", report)
    assert text.startswith("### `race`: who is faster\n\n| who | a second |\n")
    assert text.endswith(f"{goal}\n\nBoth did the same.\n")
    assert as_values(report)["goals"][0]["is_met"] is True
    assert as_values(report)["samples"] == {"us": [9]}


def test_contenders_take_turns() -> None:
    """The contenders are measured A B A B, so that a disturbance of the machine meets both."""
    order: list[str] = []

    def contender(name: str) -> int:
        order.append(name)
        return len(order)

    values = alternate({"a": lambda: contender("a"), "b": lambda: contender("b")}, 2, lambda _: None)
    assert order == ["a", "b", "a", "b"]
    assert values == {"a": [1, 3], "b": [2, 4]}
