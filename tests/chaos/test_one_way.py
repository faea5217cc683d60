"""Networks that carry one direction only, and a virtual host that is restarted: nothing is lost, all goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from proxy import Way
from storm import SLOTS, Account, Storm, go_through, storm_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger import Ledger
    from mortal import MortalBroker

HOLE_SECONDS = 14
"""Longer than either end needs to give up a connection on which it hears nothing."""

pytestmark = pytest.mark.timeout(240 + 2 * storm_seconds())


def swallow_what_clients_say(storm: Storm) -> None:
    """Let the broker hear nothing: its deliveries arrive, acknowledgements and heartbeats do not."""
    _swallow(storm, Way.TO_SERVER)


def swallow_what_the_broker_says(storm: Storm) -> None:
    """Let worker and publisher hear nothing: tasks arrive at the broker, confirmations do not come back."""
    _swallow(storm, Way.TO_CLIENT)


def restart_vhost(storm: Storm) -> None:
    """Stop the virtual host with its queues, and start it, while the connections stay open."""
    storm.control("restart_vhost", "--vhost", "/")


def _swallow(storm: Storm, way: Way) -> None:
    for network in (storm.network, storm.publishers):
        network.freeze(way)
    time.sleep(HOLE_SECONDS)
    for network in (storm.network, storm.publishers):
        network.thaw()


@pytest.mark.parametrize(
    ("fault", "pool"),
    [
        (swallow_what_clients_say, "threads"),
        (swallow_what_the_broker_says, "prefork"),
        (restart_vhost, "threads"),
    ],
)
def test_nothing_is_lost(
    fault: Callable[[Storm], None],
    pool: str,
    stormy_shop: Ledger,
    stormy_broker: MortalBroker,
    book: Callable[[Account], None],
) -> None:
    """Each confirmed message ran to its end, only what was in flight ran twice, and the worker lives."""
    with Storm.over(stormy_shop, stormy_broker, pool) as storm:
        account = go_through(fault, storm)
        book(account)
        assert account.lost == 0, account
        assert account.unstored == 0, account
        assert account.duplicates <= 2 * SLOTS * storm.faults, account
        assert storm.worker.process.poll() is None, storm.worker.text()
