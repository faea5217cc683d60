"""Workers and publishers at work while something fails: nothing that was confirmed is lost, and all goes on.

Each storm is one fault in its short form; with ``TEST_CHAOS_SECONDS`` the fault comes again for so long. The end
of the run shows a table: messages, faults, lost, duplicates, longest gap between two ends of tasks.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from apps import delete
from storm import SLOTS, Account, Storm, storm_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger import Ledger
    from mortal import MortalBroker

OUT_SECONDS = 3
"""How long something is away."""

HOLE_SECONDS = 14
"""Longer than both ends need to give up a connection on which nothing passes."""

pytestmark = pytest.mark.timeout(240 + 2 * storm_seconds())


def kill_worker(storm: Storm) -> None:
    """End a worker and its processes as the out-of-memory killer would, and start another."""
    os.killpg(storm.worker.process.pid, signal.SIGKILL)
    storm.worker.process.wait(30)
    storm.start_worker()


def kill_child(storm: Storm) -> None:
    """Kill one process of a prefork pool in the middle of its work; the worker starts another."""
    listed = subprocess.run(
        ["pgrep", "-P", str(storm.worker.process.pid)],  # noqa: S607 - procps
        capture_output=True,
        text=True,
        check=True,
    )
    os.kill(int(random.choice(listed.stdout.split())), signal.SIGKILL)  # noqa: S311 - any will do


def stop_worker(storm: Storm) -> None:
    """Tell a worker to end in the middle of its work, and start another when it has."""
    storm.worker.process.terminate()
    assert storm.worker.process.wait(30) == 0
    storm.start_worker()


def quit_worker(storm: Storm) -> None:
    """End a worker at once by SIGQUIT, and start another."""
    storm.worker.process.send_signal(signal.SIGQUIT)
    assert storm.worker.process.wait(30) == 1
    storm.start_worker()


def cut_network(storm: Storm) -> None:
    """Reset every connection, of the worker and of the publisher."""
    storm.network.cut()
    storm.publishers.cut()


def swallow_worker(storm: Storm) -> None:
    """Let nothing pass between worker and broker, while neither learns that the other is gone."""
    storm.network.freeze()
    time.sleep(HOLE_SECONDS)
    storm.network.thaw()


def swallow_publisher(storm: Storm) -> None:
    """Let nothing pass between publisher and broker, while neither learns that the other is gone."""
    storm.publishers.freeze()
    time.sleep(HOLE_SECONDS)
    storm.publishers.thaw()


def half_open(storm: Storm) -> None:
    """Let the connections that there are become black holes; new ones are carried."""
    storm.network.freeze(new_too=False)
    storm.publishers.freeze(new_too=False)


def kill_broker(storm: Storm) -> None:
    """End the broker by SIGKILL and start it again."""
    storm.broker.kill()
    time.sleep(OUT_SECONDS)
    storm.broker.start()


def restart_broker(storm: Storm) -> None:
    """Stop the broker in order, as for an update, and start it again."""
    storm.control("stop_app")
    time.sleep(OUT_SECONDS)
    storm.control("start_app")


def close_connections(storm: Storm) -> None:
    """Close every connection as an operator would."""
    storm.control("close_all_connections", "--vhost", "/", "an operator closes it")


def raise_memory_alarm(storm: Storm) -> None:
    """Let the broker stop reading from who publishes, for want of memory."""
    storm.control("set_vm_memory_high_watermark", "absolute", "1000000")
    time.sleep(OUT_SECONDS)
    storm.control("set_vm_memory_high_watermark", "0.6")


def raise_disk_alarm(storm: Storm) -> None:
    """Let the broker stop reading from who publishes, for want of disk."""
    storm.control("set_disk_free_limit", "900000GB")
    time.sleep(OUT_SECONDS)
    storm.control("set_disk_free_limit", "50MB")


STORMS = [
    (kill_worker, "prefork"),
    (kill_worker, "threads"),
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
        until = time.monotonic() + storm_seconds()
        while True:
            storm.faults += 1
            fault(storm)
            storm.wait_for_tasks()
            if time.monotonic() >= until:
                break
        account = storm.account()
        book(account)
        assert account.lost == 0, account
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
