"""The broker is killed, stopped, blocked and changed under workers and a publisher: nothing confirmed is lost.

The form is that of `test_workers_storms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import delete
from faults import close_connections, kill_broker, raise_disk_alarm, raise_memory_alarm, restart_broker
from storm import SLOTS, Storm, go_through, storm_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger import Ledger
    from mortal import MortalBroker
    from storm import Account

pytestmark = pytest.mark.timeout(240 + 2 * storm_seconds())

STORMS = [
    (kill_broker, "prefork"),
    (kill_broker, "threads"),
    (restart_broker, "gevent"),
    (close_connections, "threads"),
    (raise_memory_alarm, "threads"),
    (raise_disk_alarm, "prefork"),
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


def test_a_deleted_queue_loses_what_was_in_it_and_no_more(
    stormy_shop: Ledger, stormy_broker: MortalBroker, book: Callable[[Account], None]
) -> None:
    """Worker and publisher go on with the queue that the worker declares again."""
    with Storm.over(stormy_shop, stormy_broker, "threads") as storm:
        app = stormy_shop.app()
        storm.faults += 1
        waiting = delete(app, f"{app.settings.prefix}default")
        storm.wait_for_tasks()
        account = storm.account(without=waiting + SLOTS)
        book(account)
        assert account.lost <= waiting + SLOTS  # some may come between its count and its end
        assert account.duplicates <= 2 * SLOTS
