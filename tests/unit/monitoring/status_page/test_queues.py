"""The page's words for a queue: its state and the reason, so that a person on call can act on it."""

from __future__ import annotations

from typing import Any

import pytest

from broker_app.monitoring.status_page.queues import (
    FleetSummary,
    Objective,
    QueueSummary,
    Severity,
    reasons,
    summary,
    verdict,
)
from broker_app.monitoring.status_page.shown import shown, shown_end

FIVE = Objective(5.0, 99.0)


def queue(name: str = "mail", **more: Any) -> QueueSummary:
    """Return a healthy queue with an objective, except for the given values."""
    well: dict[str, Any] = {"objective": FIVE, "wait": 0.1, "ready": 0, "running": 0, "dead": 0, "consumers": 1}
    return QueueSummary(name, **(well | more))


@pytest.mark.parametrize(
    ("state", "level", "word"),
    [
        ({}, Severity.GOOD, "on time"),
        ({"objective": None}, Severity.QUIET, "no objective"),
        ({"wait": 5.0}, Severity.WARN, "close"),
        ({"wait": 5.1}, Severity.BAD, "late"),
        ({"wait": 5.1, "objective": None}, Severity.QUIET, "no objective"),
        ({"wait": None, "ready": None, "consumers": None}, Severity.QUIET, "unknown"),
        ({"ready": 3, "consumers": 0}, Severity.BAD, "stuck"),
        ({"ready": 3, "consumers": 0, "is_paused": True}, Severity.WARN, "paused"),
        ({"is_missing": True}, Severity.BAD, "missing"),
        ({"fleet": FleetSummary(wanted=2, up=1)}, Severity.WARN, "short of workers"),
        ({"within_percent": 98.9}, Severity.WARN, "was late"),
        ({"within_percent": 99.0}, Severity.GOOD, "on time"),
    ],
    ids=str,
)
def test_how_a_queue_stands(state: dict[str, Any], level: Severity, word: str) -> None:
    """The worst problem is shown, in a word: missing, paused, late, stuck, and then the lesser ones."""
    assert verdict(queue(**state)) == (level, word)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, []),
        ({"ready": 3, "consumers": 0}, ["No worker takes from it, on any host."]),
        ({"is_missing": True}, ["It is not on the broker; run `broker-app topology declare`."]),
        ({"fleet": FleetSummary(3, 1, 8, 2)}, ["1 of 3 workers of this host are up."]),
        ({"fleet": FleetSummary(3, 0)}, ["No worker of this host is up."]),
        ({"fleet": FleetSummary(1, 1, 8, 8), "ready": 1}, ["All 8 slots of this host are busy."]),
        ({"fleet": FleetSummary(1, 1, 1, 1), "ready": 1}, ["The only slot of this host is busy."]),
        ({"ready": 90, "growth": 2.0}, ["It grows by 120 a minute."]),
        ({"ready": 90, "growth": -2.0}, ["It is empty in about 45 s."]),
        ({"ready": 9_000, "growth": -2.0}, ["It is empty in about 75 min."]),
        ({"ready": 90_000, "growth": -2.0}, ["It is empty in about 12 h."]),
        ({"ready": 90, "growth": 0.001}, []),
        ({"finished": 2_000, "failed": 3}, ["3 of 2,000 tasks failed in 15 minutes."]),
        ({"within_percent": 98.765}, ["98.77 % were in time in 15 minutes; 99 % is wanted."]),
    ],
    ids=str,
)
def test_why_it_stands_so(state: dict[str, Any], expected: list[str]) -> None:
    """Each cause is a sentence with its numbers; a queue on which all is well has none."""
    assert [text for _, text in reasons(queue(**state))] == expected


def test_a_few_failures_are_no_warning() -> None:
    """One task in a hundred may fail before the page warns."""
    assert reasons(queue(finished=100, failed=1))[0][0] is Severity.QUIET
    assert reasons(queue(finished=100, failed=2))[0][0] is Severity.WARN


@pytest.mark.parametrize(
    ("queues", "problem", "expected"),
    [
        ([queue()], "", (Severity.GOOD, "Every queue is on time")),
        ([queue(), queue("x", objective=None)], "", (Severity.GOOD, "Every queue with an objective is on time")),
        ([queue(objective=None)], "", (Severity.QUIET, "No queue has an objective")),
        ([queue("a", wait=9.0), queue("b", wait=4.0)], "", (Severity.BAD, "a is late")),
        ([queue("b", wait=4.0), queue("c")], "", (Severity.WARN, "b is close to its objective")),
        ([queue("b", within_percent=9.0)], "", (Severity.WARN, "b was late")),
        (
            [queue(str(n), wait=9.0) for n in range(5)],
            "",
            (Severity.BAD, "0 is late, 1 is late, 2 is late, and 2 more"),
        ),
        ([queue()], "refused", (Severity.BAD, "The broker does not answer")),
    ],
    ids=str,
)
def test_the_summary(queues: list[QueueSummary], problem: str, expected: tuple[Severity, str]) -> None:
    """One sentence says what is worst, and of which queues; a silent broker comes before all."""
    assert summary(queues, problem) == expected


def test_text_of_others_is_bounded_and_visible() -> None:
    """Control characters, reversals, surrogates and line ends become escapes; what is long is cut, and says so."""
    assert shown("plain <b>&amp;</b> ünïcödé 日本 😀") == "plain <b>&amp;</b> ünïcödé 日本 😀"
    assert shown("\x1b[2J\x00\r\n\u202e\u200b\ud800\u2028") == r"\x1b[2J\x00\r\n\u202e\u200b\ud800\u2028"
    assert shown("x" * 10_000_000, 5) == "xxxxx… (10,000,000 characters)"
    assert shown("a\n\tb\r", is_one_line=False) == "a\n\tb\\r"
    assert shown_end("first\nlast line", 9) == "(15 characters) …last line"
