"""`broker-app demo`: it shows the main job, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from brokers import Management, vhost_of
from demos import Demo, demo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

JOBS = ("--jobs", "100")
ROW = re.compile(r"│ (default|lopri) +│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │")


def left_on_broker(management: Management, url: str) -> list[str]:
    """Return the queues and exchanges of a virtual host that are not RabbitMQ's own."""
    vhost = quote(vhost_of(url), safe="")
    found = [one["name"] for kind in ("queues", "exchanges") for one in management.get(f"{kind}/{vhost}")]
    return [name for name in found if name and not name.startswith("amq.")]


def files_below(folder: Path) -> set[str]:
    """Return the files and folders of a demo's folder that are not in its state folder."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {path for path in found if path.split("/")[0] != "state"} - {"home"}


def refused(folder: Path, url: str | None, *arguments: str) -> str:
    """Run a demo that must fail by itself, and return the one line in which it says why."""
    with demo(folder, url, *arguments) as made:
        assert made.end() == 1
        made.remains.assert_gone()
    assert made.out == ""
    *steps, complaint = made.lines
    assert all(re.match(r"\[ *\d+\.\ds\] ", step) for step in steps), steps
    assert complaint.startswith("broker-app: ")
    return complaint


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Take a port, or leave it to whoever has it already."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
    else:
        with closing(listener):
            yield


@dataclass
class Shown:
    """A demo that ran to its end while its usual port was taken, and two others that were started beside it."""

    first: Demo
    code: int
    in_same_folder: str
    on_same_broker: str
    left: list[str]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, vhost_url: str, management: Management) -> Iterator[Shown]:
    """Run one demo to its end, disturbed by two others."""
    folder = tmp_path_factory.mktemp("demo")
    with taken(8731), demo(folder, vhost_url, *JOBS) as first:
        first.wait_for("] site:")
        in_same_folder = refused(folder, vhost_url)
        on_same_broker = refused(tmp_path_factory.mktemp("other"), vhost_url)
        code = first.end()
        first.remains.assert_gone()
        yield Shown(first, code, in_same_folder, on_same_broker, left_on_broker(management, vhost_url))


def test_demo_shows_that_every_task_ended_and_where_the_failed_ones_are(shown: Shown) -> None:
    """It exits with 0 and a table: sent, done and failed add up for both queues, nothing waits."""
    rows = {row[0]: [int(cell) for cell in row[1:]] for row in ROW.findall(shown.first.out)}

    assert shown.code == 0, shown.first.lines
    assert rows["lopri"] == [100, 99, 1, 0]
    sent, done, failed, waiting = rows["default"]
    assert (done, failed, waiting) == (sent, 0, 0)
    assert sent >= 1 + 10 + 1 + 3  # the chain (its rest is the workers'), the chord, the countdown, calls between
    assert shown.first.out.endswith("failed with 404: 1 of 100 downloads, now in lopri.dead; nothing was lost\n")


def test_demo_shows_on_stderr_what_it_does(shown: Shown) -> None:
    """The broker, topology, site and fleets, and the person's chain, chord and countdown are named there."""
    said = "\n".join(shown.first.lines)

    for step in ("broker: ", "topology: demo.default, demo.lopri", "site: http://127.0.0.1:"):
        assert f"] {step}" in said
    assert re.search(r"\] fleet: demo\.default@\S+, 8 slots", said)
    assert re.search(r"\] fleet: demo\.lopri@\S+, 32 slots", said)
    assert re.search(r"\] chain .* = 32 after ", said)
    assert re.search(r"\] chord .* = 90 after ", said)
    assert re.search(r"\] delayed .* =  4 after ", said)
    assert "│" not in said


def test_demo_leaves_nothing_behind(shown: Shown) -> None:
    """No queue or exchange stays on a broker that was given, and no file outside the state folder."""
    assert shown.left == []
    assert files_below(shown.first.folder) == set()


def test_demo_chooses_another_port_if_the_usual_one_is_taken(shown: Shown) -> None:
    """Without --port a taken port is no obstacle."""
    assert "127.0.0.1:8731" not in shown.first.wait_for("] site:")


def test_second_demo_in_the_same_folder_is_refused(shown: Shown) -> None:
    """It is told in one line that another is at work there, and the first goes on."""
    assert "another demo is at work there" in shown.in_same_folder


def test_second_demo_on_the_same_broker_is_refused(shown: Shown) -> None:
    """From another folder it is told in one line that another is at work on the broker, whose queues stay."""
    assert "another demo is at work on this broker" in shown.on_same_broker


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("] topology:", signal.SIGTERM),
        ("] site:", signal.SIGINT),
        ("] ending", signal.SIGINT),
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


def test_given_port_that_is_taken_is_refused(tmp_path: Path, vhost_url: str) -> None:
    """With --port a taken port is one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        complaint = refused(tmp_path, vhost_url, "--port", port)

    assert f"--port {port}: expected a port that can be had, got: Address already in use" in complaint


def test_state_folder_that_cannot_be_made_is_refused(tmp_path: Path, vhost_url: str) -> None:
    """A state folder that cannot be written is one line that names it and the cure."""
    (tmp_path / "state").write_text("a file in the way")

    complaint = refused(tmp_path, vhost_url)

    assert f"{tmp_path}/state/demo: expected a folder that can be written" in complaint
    assert "set BROKER_APP_STATE_DIR" in complaint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[queues.default]\n[queues.reports]\n", "needs the queue 'lopri' and workers of it, got: no such queue"),
        ("[queues.default]\n[queues.lopri.fleet]\nnodes = 0\n", "got: queues.lopri.fleet.nodes = 0"),
    ],
    ids=["a queue is missing", "no workers"],
)
def test_settings_without_the_queues_of_the_demo_are_refused(
    tmp_path: Path, vhost_url: str, settings: str, words: str
) -> None:
    """A project whose settings lack what the demo plays with is told so before anything is started."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "broker.toml").write_text(settings)

    assert words in refused(tmp_path, vhost_url)


def test_stop_without_a_kept_demo_is_refused(tmp_path: Path) -> None:
    """`--stop` says in one line that nothing was kept."""
    assert "expected a demo that was kept, there is none" in refused(tmp_path, None, "--stop")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, vhost_url: str, shown: Shown) -> Iterator[Demo]:
    """Return a kept demo whose processes were all killed, as when its machine went down."""
    del shown  # it must have ended before another demo may use the broker
    with demo(tmp_path_factory.mktemp("kept"), vhost_url, "--keep", "--jobs", "1") as made:
        assert made.end() == 0, made.lines
        assert "a demo was kept there; use it, or end it with" in refused(made.folder, vhost_url)
        made.kill()
        yield made


def test_new_demo_runs_after_a_kept_one_went_down(killed: Demo, vhost_url: str) -> None:
    """What a kept demo wrote down before its machine went down is cleared away by the next demo."""
    record = killed.state / "demo" / "running.json"
    before = record.read_text()
    with demo(killed.folder, vhost_url) as made:
        made.wait_for("] site:")
        assert "ending what an earlier demo has left" in made.lines[0]
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
