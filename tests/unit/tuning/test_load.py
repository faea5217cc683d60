"""The load of a tuned worker, and the count of its runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_app.errors import CallError, TuningError
from broker_app.tuning.load import TaskLoad, parse_profile, parse_time, simulate
from broker_app.tuning.task_log import LoggedRun, TaskLog, completed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("wait=50ms,cpu=2ms,jitter=20%", (0.05, 0.002, 0.2)),
        ("wait=1.5s", (1.5, 0.0, 0.0)),
        ("cpu=300us,jitter=0.5", (0.0, 0.0003, 0.5)),
    ],
)
def test_a_profile_is_a_call(text: str, args: tuple[float, ...]) -> None:
    """Times have a unit, a share is a percentage or a fraction, and an omitted part is zero."""
    assert parse_profile(text).args == pytest.approx(args)


@pytest.mark.parametrize(
    "text",
    ["", "wait=50", "wait=50ms,slepp=3ms", "wait=2m", "jitter=20%", "wait=5ms,jitter=120%", "wait=61s", "cpu=-1s"],
)
def test_a_profile_that_is_none_is_refused(text: str) -> None:
    """No unit, an unknown word, nothing to do, more than a minute, a share above one: one line each."""
    with pytest.raises(CallError, match="--profile"):
        parse_profile(text)


def test_a_load_says_how_often_each_call_comes() -> None:
    """Calls that come several times in a turn are listed once, with their share."""
    rare, often = parse_profile("cpu=5ms"), parse_profile("wait=1ms")

    assert str(TaskLoad((rare, often))) == f"{rare}; {often}"
    assert str(TaskLoad((often, rare, often))) == f"2 of 3 {often}; 1 of 3 {rare}"


def test_a_duration_needs_a_unit() -> None:
    """The option is named in the refusal."""
    assert parse_time("200ms", "--max-latency") == 0.2
    with pytest.raises(CallError, match="--max-latency: expected a time such as 50ms"):
        parse_time("200", "--max-latency")


def test_a_simulated_task_waits_and_computes() -> None:
    """It lasts at least as long as it should wait, and uses the processor as long as it should compute."""
    began, used = time.monotonic(), time.thread_time()

    simulate(0.02, 0.01, 0.0)

    assert time.monotonic() - began >= 0.02
    assert time.thread_time() - used >= 0.01


@settings(max_examples=30)
@given(st.integers(1, 20), st.floats(0.05, 5.0), st.floats(0.0, 1.0), st.floats(1.0, 4.0))
def test_slots_that_never_rest_are_counted_exactly(
    slots: int, seconds: float, offset: float, window: float
) -> None:
    """Back-to-back runs of any length give slots / seconds in any window, where counting ends would not."""
    runs = [
        LoggedRun(0.0, start, start + seconds)
        for slot in range(slots)
        for turn in range(-1, int(window / seconds) + 2)
        for start in [(turn + offset * slot / slots) * seconds]
    ]

    assert completed(runs, 0.0, window) == pytest.approx(slots * window / seconds, rel=1e-6)


def test_a_record_is_read_line_by_line(tmp_path: Path) -> None:
    """Half a line is left for the next look, and a task that failed stops the measurement with its words."""
    record = TaskLog(tmp_path / "record")
    with record.path.open("a") as file:
        file.write("ready\nran 1.0 2.0 3.0\nran 1.0 2.5")
        file.flush()
        record.read()
        assert (record.is_ready, record.runs) == (True, [LoggedRun(1.0, 2.0, 3.0)])
        file.write(" 3.5\nfailed shop.pay raised ValueError: no money\n")
        file.flush()
        with pytest.raises(TuningError, match=r"shop.pay raised ValueError: no money"):
            record.read()
    assert record.runs[1:] == [LoggedRun(1.0, 2.5, 3.5)]
