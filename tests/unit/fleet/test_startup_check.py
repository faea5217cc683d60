"""Nodes that exit while a fleet is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.processes import NodeProcess
from broker_app.fleet.startup_check import StartupWatch
from broker_app.fleet.state import FleetState
from broker_app.worker.heartbeat_file import HeartbeatFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("queues", "is_old", "was_running", "words"),
    [
        (None, False, False, "during startup"),
        ([], False, False, "during startup"),
        (["lopri"], True, False, "during startup"),
        (["lopri"], False, False, "consumed lopri"),
        (["lopri"], True, True, "ran already"),
    ],
)
def test_a_node_that_exits_is_said_to_have_come_as_far_as_it_came(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    queues: list[str] | None,
    words: str,
    *,
    is_old: bool,
    was_running: bool,
) -> None:
    """Its heartbeat tells a node that exits during its start from one that had consumed, or ran before."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    app = BrokerApp("shop", set_as_current=False)
    state = FleetState.of(app)
    [fleet] = wanted_fleets(app.settings, ["lopri"])
    [node] = fleet.nodes
    running = {node.stem: (NodeProcess(1, 1, node.name),)} if was_running else {}

    def beat() -> None:
        if queues is not None:
            HeartbeatFile(state.sign_file(node.stem)).beat(None, queues)

    if is_old:
        beat()
    watch = StartupWatch(app, state, [fleet], running)
    if not is_old:
        beat()
    [outcome] = watch.wait(0)
    assert words in outcome.reason
