"""Rescue: how a supervisor kills hung nodes that can be restarted."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from broker_app.errors import BrokerAppError
from broker_app.fleet.hanging import Hang, HangWatch, hung_nodes
from broker_app.fleet.space import check_files
from broker_app.fleet.start import check_ready
from broker_app.fleet.stop import StopOutcome, Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.nodes import Fleet, Node
    from broker_app.fleet.processes import NodeProcess
    from broker_app.fleet.state import FleetState

AGAIN_SECONDS = 60.0
"""Delay before a hung node that could not be restarted is checked again."""

logger = logging.getLogger(__name__)


class Rescue:
    """Finds and kills hung nodes."""

    def __init__(self, app: BrokerApp, state: FleetState) -> None:
        self._app = app
        self._state = state
        self._watch = HangWatch()

    def hung(self, wanted: Mapping[Node, Fleet], running: Mapping[str, tuple[NodeProcess, ...]]) -> list[Hang]:
        """Return the wanted nodes that are confirmed to hang."""
        found = hung_nodes(self._app, self._state, running).values()
        return self._watch.confirmed([hang for hang in found if hang.node in wanted], time.monotonic())

    def kill(self, hang: Hang, fleet: Fleet) -> bool:
        """Kill a node if it can be restarted, and return whether it is gone. Call within the lock."""
        try:
            check_ready(self._app, [fleet], ())
            check_files(self._state, [hang.node.stem])
        except (BrokerAppError, OperationalError) as error:
            self._watch.put_off(hang, time.monotonic() + AGAIN_SECONDS)
            logger.error(  # noqa: TRY400 - the error is one line
                "%s; left running because it could not be restarted: %s; next check in %g s",
                *(hang, " ".join(str(error).split()), AGAIN_SECONDS),
            )
            return False
        stopper = Stopper(self._app, self._state, lambda node: node == hang.node)
        stopper.kill()
        return all(outcome.outcome is not StopOutcome.STOPPING for outcome in stopper.outcomes())
