"""Worker fleets: the nodes of each queue, started through `celery multi`, watched and stopped."""

from broker_app.fleet.start import DEFAULT_WAIT_SECONDS, Start, StartedNode, start_fleets
from broker_app.fleet.status import (
    DEFAULT_ANSWER_SECONDS,
    FleetStatus,
    NodeState,
    NodeStatus,
    fleet_status,
    unwanted_nodes,
)
from broker_app.fleet.stop import (
    DEFAULT_STOP_SECONDS,
    Stop,
    StoppedNode,
    patience_seconds,
    restart_fleets,
    stop_fleets,
)

__all__ = [
    "DEFAULT_ANSWER_SECONDS",
    "DEFAULT_STOP_SECONDS",
    "DEFAULT_WAIT_SECONDS",
    "FleetStatus",
    "NodeState",
    "NodeStatus",
    "Start",
    "StartedNode",
    "Stop",
    "StoppedNode",
    "fleet_status",
    "patience_seconds",
    "restart_fleets",
    "start_fleets",
    "stop_fleets",
    "unwanted_nodes",
]
