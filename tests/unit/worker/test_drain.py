"""The end of a worker, without a broker: it looks at its tasks while their threads begin and end them."""

from __future__ import annotations

import sys
import threading

from celery.worker import state

from broker_app.worker.drain import active_requests


class Running:
    """A request."""


def test_tasks_that_end_meanwhile_do_not_disturb_the_drain() -> None:
    """While a thread adds and removes some, those that stay are found each time."""
    stay, is_over = [Running() for _ in range(2000)], threading.Event()
    state.active_requests.update(stay)

    def change() -> None:
        while not is_over.is_set():
            one = Running()
            state.active_requests.add(one)
            state.active_requests.discard(one)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    thread.start()
    try:
        sys.setswitchinterval(1e-4)
        for _ in range(20):
            assert set(stay) <= set[object](active_requests())
    finally:
        is_over.set()
        sys.setswitchinterval(interval)
        thread.join()
        state.active_requests.difference_update(stay)
