"""Reading the logs of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker_app.errors import FleetError
from broker_app.fleet.logs import LogReader

if TYPE_CHECKING:
    from pathlib import Path


def test_the_last_lines_then_what_is_written(tmp_path: Path) -> None:
    """Nothing is shown twice or left out, also if a line is written in two pieces."""
    file = tmp_path / "lopri.log"
    file.write_text("".join(f"{number}\n" for number in range(50_000)))
    reader = LogReader(tmp_path, ("lopri",))
    assert reader.tail(2) == ["49998", "49999"]
    with file.open("a") as stream:
        stream.write("one\ntw")
        stream.flush()
        assert reader.news() == ["one"]
        stream.write("o\n")
        stream.flush()
        assert reader.news() == ["two"]


def test_a_log_that_is_rotated_is_followed(tmp_path: Path) -> None:
    """The new file is read from its begin, also one that was cut short in its place."""
    file = tmp_path / "lopri.log"
    file.write_text("old\n")
    reader = LogReader(tmp_path, ("lopri",))
    assert reader.tail(9) == ["old"]
    file.rename(tmp_path / "lopri.log.1")
    assert reader.news() == []
    file.write_text("new\n")
    assert reader.news() == ["new"]
    file.write_text("")
    assert reader.news() == []
    file.write_text("cut\n")
    assert reader.news() == ["cut"]


def test_lines_of_many_logs_are_named(tmp_path: Path) -> None:
    """A pool's processes have logs of their own; those of other queues are not shown."""
    for stem in ("lopri", "lopri-1", "lopri+2", "lopri-old", "default"):
        (tmp_path / f"{stem}.log").write_text("x\n")
    reader = LogReader(tmp_path, ("lopri", "lopri+2"))
    assert reader.tail(1) == ["lopri: x", "lopri-1: x", "lopri+2: x"]


def test_no_log_is_one_line(tmp_path: Path) -> None:
    """It says what to do."""
    with pytest.raises(FleetError, match="expected logs of lopri, found none; start the fleet"):
        LogReader(tmp_path, ("lopri",)).tail(1)
