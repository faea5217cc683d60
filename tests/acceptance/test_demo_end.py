"""`broker-app demo`: however it ends, nothing of it is left, and a kept demo can be ended."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from demos import JOBS, Demo, demo, files_below, left_on_broker, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("] topology:", signal.SIGTERM),
        ("] site:", signal.SIGINT),
        ("] stopping", signal.SIGINT),
    ],
    ids=["before the site is up", "while the fleets start", "during the clean-up"],
)
def test_interrupt_ends_everything(
    tmp_path: Path, fresh_vhost_url: str, management: Management, moment: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM ends the demo with 130 at any moment; a second one disturbs nothing, nothing is left."""
    with demo(tmp_path, fresh_vhost_url, *JOBS) as made:
        made.wait_for(moment)
        made.press(number)
        made.press(number)

        assert made.end() == 130, made.lines
        made.remains.assert_gone()
    assert not any("Traceback" in line for line in made.lines), made.lines
    assert left_on_broker(management, fresh_vhost_url) == []
    assert files_below(tmp_path) == set()


def test_interrupt_while_the_broker_starts_leaves_no_broker(tmp_path: Path) -> None:
    """Ctrl-C while the demo starts a broker of its own ends that broker, container or node, and its folder."""
    with demo(tmp_path, None) as made:
        made.wait_for_broker()
        made.press()

        assert made.end() == 130, made.lines
        made.remains.assert_gone()
    assert not list((tmp_path / "state" / "demo").glob("brokers/*"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Iterator[Demo]:
    """Return a kept demo whose processes were all killed, as when its machine went down."""
    with demo(tmp_path_factory.mktemp("kept"), vhost_url, "--keep", "--jobs", "1") as made:
        assert made.end() == 0, made.lines
        assert "a kept demo is running there; use it, or stop it with" in refused(made.folder, vhost_url)
        made.kill()
        yield made


def test_new_demo_runs_after_a_kept_one_went_down(killed: Demo, vhost_url: str) -> None:
    """After a crash of the machine, the next demo clears away the records of a kept one."""
    record = killed.state / "demo" / "running.json"
    before = record.read_text()
    with demo(killed.folder, vhost_url) as made:
        made.wait_for("] site:")
        assert "cleaning up after an earlier demo" in made.lines[0]
        made.press()
        assert made.end() == 130
    assert not record.exists()
    record.write_text(before)  # for the next test


def test_stop_after_a_kept_demo_went_down(killed: Demo, vhost_url: str, management: Management) -> None:
    """`--stop` clears away what a kept demo wrote down before its machine went down, on the broker too."""
    with demo(killed.folder, None, "--stop") as made:
        assert made.end() == 0, made.lines

    assert left_on_broker(management, vhost_url) == []
    assert not (killed.state / "demo" / "running.json").exists()
    assert not (killed.state / "demo" / "env.sh").exists()


def test_stop_ends_what_a_demo_left_that_was_killed(tmp_path: Path) -> None:
    """After SIGKILL of the demo's own process `--stop` ends its workers, its site and its broker."""
    with demo(tmp_path, None) as made:
        made.wait_for("] fleet: demo.lopri")
        os.kill(made.pid, signal.SIGKILL)
        made.end()
        assert made.remains.processes()
        with demo(tmp_path, None, "--stop") as stop:
            assert stop.end() == 0, stop.lines

        made.remains.assert_gone()
    assert not list((tmp_path / "state" / "demo").glob("brokers/*"))


def test_reader_of_stderr_that_has_gone_does_not_stop_the_clean_up(
    tmp_path: Path, fresh_vhost_url: str, management: Management
) -> None:
    """`broker-app demo 2>&1 | tee log`: Ctrl-C ends tee too, and the demo ends everything all the same."""
    with demo(tmp_path, fresh_vhost_url, deaf_after="] site:") as made:
        made.wait_for("] site:")
        made.press()

        assert made.end() == 130
        made.remains.assert_gone()
    assert left_on_broker(management, fresh_vhost_url) == []


def test_terminal_shows_a_live_table_until_the_interrupt(
    tmp_path: Path, fresh_vhost_url: str, management: Management
) -> None:
    """On a terminal the figures are drawn in place below the lines; Ctrl-C in the flood ends all, with 130."""
    with demo(tmp_path, fresh_vhost_url, is_on_terminal=True) as made:
        made.wait_for("│ lopri")
        made.wait_for("] chain ")
        made.press()

        assert made.end() == 130
        made.remains.assert_gone()
    shown = "\n".join(made.lines)
    assert "at work" in shown
    assert "\x1b[1A" in shown  # up one line: drawn again in its place
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back
    assert left_on_broker(management, fresh_vhost_url) == []
