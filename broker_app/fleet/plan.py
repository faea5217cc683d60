"""The commands of `fleet start`, as shell lines."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.fleet.multi import PATH_VARIABLES, child_environment, pasted_line
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.state import FleetState
from broker_app.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.app import BrokerApp


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The start command of one fleet.

    Attributes:
        queue: Its name, as producers write it.
        nodes: Names of all wanted nodes; at least one.
        line: The `celery multi` command, without secrets.
        variables: Names of the environment variables that the settings add; the shell must set them.
    """

    queue: str
    nodes: tuple[str, ...]
    line: str
    variables: tuple[str, ...]


def plan_fleets(
    app: BrokerApp, queues: Iterable[str] = (), *, app_name: str | None = None
) -> tuple[FleetPlan, ...]:
    """Return the start commands for some queues, or for all; queues without nodes are omitted.

    Args:
        app: The app whose settings apply.
        queues: Names as producers write them; empty for all.
        app_name: The workers' ``-A`` argument; None for the app's main name.

    Raises:
        UnknownQueue: The settings do not declare the queue.
        FleetError: The state folder is unusable.
    """
    state = FleetState.of(app)
    return tuple(
        FleetPlan(
            queue=fleet.queue,
            nodes=tuple(node.name for node in fleet.nodes),
            line=pasted_line(fleet, app_name or app.main, state),
            variables=tuple(sorted(fleet.settings.environment)),
        )
        for fleet in wanted_fleets(app.settings, queues, Overrides.read(state.run).scaled)
        if fleet.nodes
    )


def exports(app: BrokerApp, queues: Iterable[str]) -> tuple[str, ...]:
    """Return the shell lines that set the workers' variables, including their values."""
    variables: dict[str, str] = {}
    for fleet in wanted_fleets(app.settings, queues):
        variables |= fleet.settings.environment
    return tuple(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def preparation() -> str:
    """Return the shell commands that set the folder and path variables with which workers find their files."""
    environment = child_environment()
    paths = [f"export {name}={shlex.quote(environment[name])}" for name in PATH_VARIABLES if environment.get(name)]
    return " && ".join([f"cd {shlex.quote(str(Path.cwd()))}", *paths])


def inherited_variables() -> tuple[str, ...]:
    """Return the names of this process's settings variables, without the paths that `preparation` sets."""
    names = (name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    return tuple(sorted(name for name in names if name not in PATH_VARIABLES))
