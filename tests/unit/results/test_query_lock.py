"""Query locks and forks."""

from __future__ import annotations

import os
import threading
import time

from broker_app.results.query_lock import QueryLock


def test_a_fork_waits_for_queries() -> None:
    """A process is not forked in the middle of a query, and its own queries need not wait for anyone."""
    lock, began = QueryLock(), threading.Event()
    ended_at: list[float] = []

    def query() -> None:
        with lock:
            began.set()
            time.sleep(0.3)
            ended_at.append(time.monotonic())

    thread = threading.Thread(target=query)
    thread.start()
    assert began.wait(60)
    child = os.fork()
    if not child:
        try:
            status = int(not lock.lock.acquire(timeout=1))
        finally:
            os._exit(status)
    assert ended_at
    assert ended_at[0] <= time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    thread.join(60)
    with lock:  # it is free here as well
        pass


def test_a_query_that_does_not_end() -> None:
    """A fork waits for it for a bounded time."""
    lock = QueryLock()
    with lock:
        child = os.fork()
        if not child:
            os._exit(int(not lock.lock.acquire(timeout=1)))
        assert os.waitpid(child, 0)[1] == 0
