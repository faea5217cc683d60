"""Worker fleets: the nodes of each queue, started through `celery multi`, watched, changed and stopped."""

from broker_app.fleet.plan import FleetPlan, plan_fleets
from broker_app.fleet.rolling import (
    NodeChanges,
    reload_fleets,
    restart_fleets,
    scale_fleet,
    start_fleets,
)
from broker_app.fleet.rolling_change import RollingTimeouts
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS
from broker_app.fleet.startup_check import StartedNode, StartOutcome
from broker_app.fleet.status import (
    DEFAULT_ANSWER_SECONDS,
    FleetStatus,
    NodeState,
    NodeStatus,
    fleet_status,
    unwanted_nodes,
)
from broker_app.fleet.stop import DEFAULT_STOP_SECONDS, StopOutcome, StoppedNode, patience_seconds, stop_fleets

__all__ = [
    "DEFAULT_ANSWER_SECONDS",
    "DEFAULT_STOP_SECONDS",
    "DEFAULT_WAIT_SECONDS",
    "FleetPlan",
    "FleetStatus",
    "NodeChanges",
    "NodeState",
    "NodeStatus",
    "RollingTimeouts",
    "StartOutcome",
    "StartedNode",
    "StopOutcome",
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
