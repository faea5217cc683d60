"""Worker fleets: the nodes of each queue, started through `celery multi`, watched, changed and stopped."""

from broker_app.fleet.plan import Plan, plan_fleets
from broker_app.fleet.rolling import Changes, Patience, reload_fleets, restart_fleets, scale_fleet, start_fleets
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS
from broker_app.fleet.startup_check import Start, StartedNode
from broker_app.fleet.status import (
    DEFAULT_ANSWER_SECONDS,
    FleetStatus,
    NodeState,
    NodeStatus,
    fleet_status,
    unwanted_nodes,
)
from broker_app.fleet.stop import DEFAULT_STOP_SECONDS, Stop, StoppedNode, patience_seconds, stop_fleets

__all__ = [
    "DEFAULT_ANSWER_SECONDS",
    "DEFAULT_STOP_SECONDS",
    "DEFAULT_WAIT_SECONDS",
    "Changes",
    "FleetStatus",
    "NodeState",
    "NodeStatus",
    "Patience",
    "Plan",
    "Start",
    "StartedNode",
    "Stop",
    "StoppedNode",
    "fleet_status",
    "patience_seconds",
    "plan_fleets",
    "reload_fleets",
    "restart_fleets",
    "scale_fleet",
    "start_fleets",
    "stop_fleets",
    "unwanted_nodes",
]
