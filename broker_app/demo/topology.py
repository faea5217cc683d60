"""The demo's queues on the broker: claimed for one demo, declared, and deleted at its end."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, delete_exchange, delete_queue, exclusive_queue, queue_state
from broker_app.demo.running import PREFIX
from broker_app.errors import BrokerAppError, BrokerLocked
from broker_app.queues import Names, work_topology
from broker_app.queues.delay import parse_lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.app import BrokerApp

DECLARE_SECONDS = 10.0


class DemoError(BrokerAppError):
    """The demo cannot run; the message says why and what to do."""


@contextmanager
def claim(app: BrokerApp) -> Iterator[None]:
    """Lock out other demos on this broker, as they use the same queues.

    Raises:
        DemoError: Another demo is running there, or was kept.
    """
    with connect(app) as connection, ExitStack() as held:
        where = app.connection_for_write().as_uri()
        try:
            held.enter_context(exclusive_queue(connection, f"{PREFIX}lock"))
        except BrokerLocked as error:
            raise DemoError(
                f"{where}: another demo is running on this broker; wait until it ends, or use another broker"
            ) from error
        for spec in app.settings.specs():
            state = queue_state(connection, spec.broker_name)
            if state is not None and state.consumers:
                raise DemoError(
                    f"{where}: queue {spec.broker_name!r} has {state.consumers} workers of another demo; "
                    f"stop it with `broker-app demo --stop` where it was started, or use another broker"
                )
        yield


def declare(app: BrokerApp) -> None:
    """Declare the demo's queues, and the lanes that it uses."""
    settings = app.settings
    common = [parse_lane(word) for word in settings.common_lanes]
    with connect(app) as connection:
        declare_topology(connection, work_topology(settings.specs(), settings.prefix))
        delay_lanes.declare(connection, common, settings.prefix, time.monotonic() + DECLARE_SECONDS)


def delete_all(app: BrokerApp) -> None:
    """Delete everything that the demo and its workers declared under the demo's prefix."""
    settings, mailbox = app.settings, app.control.mailbox
    names = Names(settings.prefix)
    wanted = work_topology(settings.specs(), settings.prefix)
    exchanges = [
        *(exchange.name for exchange in wanted.exchanges),
        *(app.conf.event_exchange, mailbox.exchange.name, mailbox.reply_exchange.name),
    ]
    with connect(app) as connection:
        for queue in [
            *(queue.name for queue in wanted.queues),
            *(names.lane(lane) for lane in delay_lanes.every()),
        ]:
            delete_queue(connection, queue)
        for exchange in exchanges:
            delete_exchange(connection, exchange)
