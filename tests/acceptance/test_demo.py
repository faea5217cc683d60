"""`broker-app demo`: its output, its refusals, and that it leaves nothing behind."""

from __future__ import annotations

import re
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from demos import JOBS, Demo, demo, files_below, left_on_broker, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

pytestmark = pytest.mark.timeout(300)

ROW = re.compile(r"│ (default|lopri) +│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │")


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Take a port, unless another process already has it."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
    else:
        with closing(listener):
            yield


@dataclass
class Shown:
    """A demo that ran to its end although its usual port was taken, and two others started at the same time."""

    first: Demo
    in_same_folder: str
    on_same_broker: str
    left: list[str]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, vhost_url: str, management: Management) -> Iterator[Shown]:
    """Run one demo to its end, disturbed by two others; one that fails is not shown to the next try of a test."""
    folder = tmp_path_factory.mktemp("demo")
    with taken(8731), demo(folder, vhost_url, *JOBS) as first:
        first.wait_for("] site:")
        in_same_folder = refused(folder, vhost_url)
        on_same_broker = refused(tmp_path_factory.mktemp("other"), vhost_url)
        assert first.end() == 0, first.lines
        first.remains.assert_gone()
        yield Shown(first, in_same_folder, on_same_broker, left_on_broker(management, vhost_url))


def test_demo_shows_that_every_task_ended_and_where_the_failed_ones_are(shown: Shown) -> None:
    """It exits with 0 and a table: sent, done and failed add up for both queues, nothing waits."""
    rows = {row[0]: [int(cell) for cell in row[1:]] for row in ROW.findall(shown.first.out)}

    assert rows["lopri"] == [100, 99, 1, 0]
    sent, done, failed, waiting = rows["default"]
    assert (done, failed, waiting) == (sent, 0, 0)
    assert sent >= 1 + 10 + 1 + 1  # the chain (its rest is the workers'), the chord, the countdown, calls between
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
    """One line says that another demo is running there, and the first one goes on."""
    assert "another demo is running there" in shown.in_same_folder


def test_second_demo_on_the_same_broker_is_refused(shown: Shown) -> None:
    """From another folder, one line says that another demo uses the broker, whose queues stay."""
    assert "another demo is running on this broker" in shown.on_same_broker


def test_given_port_that_is_taken_is_refused(tmp_path: Path, vhost_url: str) -> None:
    """With --port a taken port is one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        complaint = refused(tmp_path, vhost_url, "--port", port)

    assert f"--port {port}: expected a free port, got: Address already in use" in complaint


def test_state_folder_that_cannot_be_made_is_refused(tmp_path: Path, vhost_url: str) -> None:
    """If the state folder is not writable, one line names it and the cure."""
    (tmp_path / "state").write_text("a file in the way")

    complaint = refused(tmp_path, vhost_url)

    assert f"{tmp_path}/state/demo: expected a folder that this user may write" in complaint
    assert "BROKER_APP_STATE_DIR to another" in complaint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[queues.default]\n[queues.reports]\n", "needs the queue 'lopri' with workers, got: no such queue"),
        ("[queues.default]\n[queues.lopri.fleet]\nnodes = 0\n", "got: queues.lopri.fleet.nodes = 0"),
    ],
    ids=["a queue is missing", "no workers"],
)
def test_settings_without_the_queues_of_the_demo_are_refused(
    tmp_path: Path, vhost_url: str, settings: str, words: str
) -> None:
    """If the settings lack a queue that the demo needs, it says so before it starts anything."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "broker.toml").write_text(settings)

    assert words in refused(tmp_path, vhost_url)


def test_stop_without_a_kept_demo_is_refused(tmp_path: Path) -> None:
    """`--stop` says in one line that nothing was kept."""
    assert "expected a kept demo, found none" in refused(tmp_path, None, "--stop")
