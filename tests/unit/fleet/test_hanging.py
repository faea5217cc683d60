"""Hanging nodes, and heartbeat files that are removed or unreadable."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp
from broker_app.fleet.hanging import LOOKING_SECONDS, Hang, HangWatch, hung_nodes
from broker_app.fleet.nodes import Node
from broker_app.fleet.processes import NodeProcess
from broker_app.fleet.restart_backoff import RestartBackoff
from broker_app.fleet.state import FleetState
from broker_app.worker.heartbeat_file import Heartbeat, HeartbeatFile

if TYPE_CHECKING:
    from pathlib import Path

HANG = Hang(Node("lopri", "lopri", "host"), 12, 40.0)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BrokerApp:
    """Return an app with a state folder of its own, and a heartbeat of 10 s."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    return BrokerApp("shop", set_as_current=False)


@pytest.mark.parametrize(
    ("turned_seconds", "pid", "pool", "is_hung"),
    [
        (29, 12, "threads", False),
        (31, 12, "threads", True),
        (31, 12, "solo", False),
        (31, 13, "threads", False),
    ],
    ids=["not-yet", "hangs", "solo-works", "sign-of-another"],
)
def test_a_node_hangs_if_its_loop_stood_still_for_three_heartbeats(
    app: BrokerApp,
    turned_seconds: float,
    pid: int,
    pool: str,
    is_hung: bool,  # noqa: FBT001 - a case
) -> None:
    """A solo node may be at work, and the sign of an earlier process says nothing."""
    state = FleetState.of(app)
    state.run.mkdir(parents=True)
    now = time.monotonic()
    sign = {"pid": pid, "turned_at": now - turned_seconds, "heard_at": now, "queues": []}
    state.sign_file("lopri").write_text(json.dumps(sign))
    running = {"lopri": [NodeProcess(12, 1, f"celery\0worker\0--pool={pool}\0--concurrency=2")]}
    assert ("lopri" in hung_nodes(app, state, running)) is is_hung


def test_a_look_after_a_pause_of_the_whole_host_is_not_enough() -> None:
    """Only a node that hangs at each look for a while is confirmed; one that turned meanwhile starts over."""
    watch = HangWatch()
    assert watch.confirmed([HANG], 100.0) == []
    assert watch.confirmed([], 101.0) == []
    assert watch.confirmed([HANG], 102.0) == []
    assert watch.confirmed([HANG], 102.0 + LOOKING_SECONDS) == [HANG]
    watch.put_off(HANG, 200.0)
    assert watch.confirmed([HANG], 199.0) == []
    assert watch.confirmed([HANG], 200.0) == [HANG]


def test_the_time_of_a_hang_is_no_life() -> None:
    """A node that hangs soon after each start waits longer and longer, however long the hang was."""
    backoff = RestartBackoff()
    backoff.ran(0)
    assert backoff.died(100, hung_seconds=90) == 1
    backoff.ran(101)
    assert backoff.died(201, hung_seconds=90) == 2


def test_a_sign_of_life_comes_back_after_its_file_was_removed_or_refused(tmp_path: Path) -> None:
    """A removed file is made again, and what could not be written is tried again at the next turn."""
    file = tmp_path / "run" / "lopri.alive"
    pulse = HeartbeatFile(file)
    file.parent.touch()  # no folder can be made there
    pulse.beat(None, ["lopri"])
    file.parent.unlink()
    for _ in range(2):
        pulse.beat(None, ["lopri"])
        sign = Heartbeat.read(file)
        assert sign is not None
        assert (sign.pid, sign.queues) == (os.getpid(), ("lopri",))
        file.unlink()
