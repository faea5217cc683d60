"""Workers are killed, told to end and cut off while a publisher publishes: nothing that was confirmed is lost.

Each storm is one fault in its short form; with ``TEST_CHAOS_SECONDS`` the fault comes again for so long. The end
of the run shows a table: messages, faults, lost, acknowledged without a result, duplicates, and the longest gap
between two ends of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults import (
    cut_network,
    half_open,
    kill_child,
    kill_worker,
    quit_worker,
    stop_worker,
    swallow_publisher,
    swallow_worker,
)
from storm import SLOTS, Storm, go_through, storm_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger import Ledger
    from mortal import MortalBroker
    from storm import Account

pytestmark = pytest.mark.timeout(240 + 2 * storm_seconds())

STORMS = [
    (kill_worker, "prefork"),
    (kill_worker, "threads"),
    (kill_worker, "asyncio"),
    (kill_child, "prefork"),
    (stop_worker, "prefork"),
    (stop_worker, "threads"),
    (quit_worker, "gevent"),
    (cut_network, "prefork"),
    (cut_network, "threads"),
    (swallow_worker, "prefork"),
    (swallow_worker, "threads"),
    (swallow_publisher, "threads"),
    (half_open, "gevent"),
]


@pytest.mark.parametrize(("fault", "pool"), STORMS, ids=[f"{fault.__name__}-{pool}" for fault, pool in STORMS])
def test_nothing_is_lost(
    fault: Callable[[Storm], None],
    pool: str,
    stormy_shop: Ledger,
    stormy_broker: MortalBroker,
    book: Callable[[Account], None],
) -> None:
    """Each confirmed message ran to its end, only what was in flight ran twice, and all goes on by itself."""
    with Storm.over(stormy_shop, stormy_broker, pool) as storm:
        account = go_through(fault, storm)
        book(account)
        assert account.lost == 0, account
        assert account.unstored == 0, account
        assert account.duplicates <= 2 * SLOTS * storm.faults, account
        assert storm.worker.process.poll() is None, storm.worker.text()
