"""Durations as people write them."""

from __future__ import annotations

import pytest

from broker_app.queues import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7_200),
        ("3d", 259_200),
        ("1h30m", 5_400),
        ("1d2h3m4s", 93_784),
        ("0s", 0),
        ("1.5h", 5_400),
        ("300us", 0.0003),
        ("50ms", 0.05),
        ("2m50ms", 120.05),
    ],
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    """Days to microseconds, one or several units, larger ones first."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "10x", "-5m", "30m1h", "1.h", "10 m", "٣m", "9" * 30 + "d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(ValueError, match="expected a time such as") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
