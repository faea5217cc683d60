"""What `fleet start` would run, as lines for a shell."""

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
    """How one fleet is started.

    Attributes:
        queue: As producers write it.
        nodes: Names of all that are wanted; at least one.
        line: The `celery multi` command; no secret is in it.
        variables: Names of those that the settings give to the workers; the shell must have them.
    """

    queue: str
    nodes: tuple[str, ...]
    line: str
    variables: tuple[str, ...]


def plan_fleets(
    app: BrokerApp, queues: Iterable[str] = (), *, app_name: str | None = None
) -> tuple[FleetPlan, ...]:
    """Return what starts the nodes of some queues, or of all; queues without a node are left out.

    Args:
        app: Whose settings count.
        queues: As producers write them; none for all.
        app_name: What the workers get as ``-A``; None for the app's main name.

    Raises:
        UnknownQueue: The settings do not declare it.
        FleetError: The state folder is not usable.
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
    """Return the shell's lines that set the workers' variables, values and all."""
    variables: dict[str, str] = {}
    for fleet in wanted_fleets(app.settings, queues):
        variables |= fleet.settings.environment
    return tuple(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def preparation() -> str:
    """Return the commands that bring a shell to where workers find the app, the settings and the state folder."""
    environment = child_environment()
    paths = [f"export {name}={shlex.quote(environment[name])}" for name in PATH_VARIABLES if environment.get(name)]
    return " && ".join([f"cd {shlex.quote(str(Path.cwd()))}", *paths])


def inherited_variables() -> tuple[str, ...]:
    """Return the names of what this process's environment tells the workers, less the paths of `preparation`."""
    names = (name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    return tuple(sorted(name for name in names if name not in PATH_VARIABLES))
