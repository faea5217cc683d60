"""Awaited results of an SQL store: many threads, few queries, and nothing of it in a forked process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from celery import states
from celery.app.task import Context
from celery.exceptions import TimeoutError as ResultTimeoutError
from waiting import wait_until

from broker_app.results.waiting import ResultWaiter

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 30.0

GREENLETS = """
import sys
from gevent.monkey import patch_all
patch_all()
from pathlib import Path
from gevent import spawn, joinall
from broker_app import BrokerApp
app = BrokerApp("tests", config=Path(sys.argv[1]), set_as_current=False)
waits = [spawn(app.AsyncResult(f"id-{number}").get, timeout=90) for number in range(20)]
stores = [spawn(app.backend.store_result, f"id-{number}", number, "SUCCESS") for number in range(20)]
joinall(waits + stores, raise_error=True)
assert [wait.value for wait in waits] == list(range(20))
"""


def _store(app: BrokerApp, *numbers: int) -> None:
    for number in numbers:
        app.backend.store_result(f"id-{number}", number, states.SUCCESS)


def test_one_query_asks_for_all() -> None:
    """Threads that wait at the same time share their queries; each gets its own result."""
    asked: list[AbstractSet[str]] = []
    ready: set[str] = set()
    asking = threading.Lock()

    def find(ids: AbstractSet[str]) -> AbstractSet[str]:
        with asking:
            asked.append(ids)
            return ids & ready

    waiter, names = ResultWaiter(find), [f"id-{number}" for number in range(30)]
    with ThreadPoolExecutor(len(names)) as pool:
        deadline = time.monotonic() + SECONDS
        waits = [pool.submit(waiter.wait, {name}, deadline=deadline, longest_pause=0.05) for name in names]
        wait_until(lambda: any(len(ids) == len(names) for ids in tuple(asked)), SECONDS, "a query for all")
        with asking:
            del asked[:]
            ready |= set(names)
        assert [wait.result(SECONDS) for wait in waits] == [{name} for name in names]
    assert len(asked) == 1


def test_pauses_grow_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin with milliseconds; the caller's interval bounds them."""
    pauses: list[float] = []

    def wait(_: threading.Event, seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(threading.Event, "wait", wait)
    waiter = ResultWaiter(lambda _ids: set())
    assert not waiter.wait({"id"}, deadline=time.monotonic() + 0.5, longest_pause=0.02)
    assert pauses[0] < 0.01
    assert max(pauses) <= 0.02


def test_an_error_reaches_the_thread_that_asked_and_the_others_go_on() -> None:
    """Each thread asks in its turn when the store fails."""
    errors = [OSError("away")]

    def find(ids: AbstractSet[str]) -> AbstractSet[str]:
        if errors:
            raise errors.pop()
        return ids

    waiter = ResultWaiter(find)
    deadline = time.monotonic() + SECONDS
    with pytest.raises(OSError, match="away"):
        waiter.wait({"id-1"}, deadline=deadline, longest_pause=1.0)
    assert waiter.wait({"id-2"}, deadline=deadline, longest_pause=1.0) == {"id-2"}


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_a_timeout_is_kept(app: BrokerApp, timeout: float) -> None:
    """Without a result `get` raises; with one it returns even if there is no time left."""
    _store(app, 1)
    with pytest.raises(ResultTimeoutError):
        app.AsyncResult("id-2").get(timeout=timeout)
    assert app.AsyncResult("id-1").get(timeout=timeout) == 1
    assert app.AsyncResult("id-2").state == states.PENDING


def test_a_failure_is_raised_or_returned(app: BrokerApp) -> None:
    """As `propagate` says; a failure that is replayed is not remembered."""
    app.backend.store_result("id-1", ValueError("x"), states.FAILURE)
    with pytest.raises(ValueError, match="x"):
        app.AsyncResult("id-1").get(timeout=SECONDS)
    assert isinstance(app.AsyncResult("id-1").get(timeout=SECONDS, propagate=False), ValueError)
    app.backend.store_result("id-1", None, states.PENDING)
    assert app.AsyncResult("id-1").state == states.PENDING


def test_a_group_waits_for_all_of_it(app: BrokerApp) -> None:
    """Groups in groups keep their shape, ignored members are None, and the time-out holds for inner members."""
    results = [app.AsyncResult(f"id-{number}") for number in range(4)]
    results[1].ignored = True
    whole = app.GroupResult("group", [results[0], results[1], app.GroupResult("inner", results[2:])])
    _store(app, 0, 2)
    with pytest.raises(ResultTimeoutError):
        whole.get(timeout=0.1)
    _store(app, 3)
    assert whole.get(timeout=SECONDS) == [0, None, [2, 3]]
    assert sorted(meta["result"] for _, meta in app.GroupResult("two", results[2:]).iter_native()) == [2, 3]


def test_what_was_stored_with_a_result_is_read_with_it(app: BrokerApp) -> None:
    """`get` and the state read the same facts, such as the arguments."""
    request = Context(
        id="id-1", task="shop.add", args=[1, 2], kwargs={"c": 3}, _children=[app.AsyncResult("id-2")]
    )
    app.backend.store_result("id-1", 6, states.SUCCESS, request=request)
    ((_, meta),) = app.backend.get_many(["id-1"])
    app.backend._cache.clear()
    assert meta == app.backend.get_task_meta("id-1")
    assert (meta["args"], meta["kwargs"], meta["children"]) == ([1, 2], {"c": 3}, [[["id-2", None], None]])


def test_a_process_forked_while_others_wait_can_wait(app: BrokerApp) -> None:
    """It inherits no lock that is held, and neither connections nor awaited results."""
    _store(app, 1)
    thread = threading.Thread(target=lambda: app.AsyncResult("id-2").get(timeout=SECONDS))
    thread.start()
    with app.backend._waiter._asking, app.backend.session_manager._lock:
        child = os.fork()
        if not child:
            os._exit(int(app.AsyncResult("id-1").get(timeout=SECONDS) != 1))
    assert os.waitpid(child, 0)[1] == 0
    _store(app, 2)
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_greenlets_wait_together(app: BrokerApp, tmp_path: Path) -> None:
    """Waiting greenlets let others store what they wait for."""
    assert app.settings
    command = [sys.executable, "-c", GREENLETS, str(tmp_path / "settings.toml")]
    subprocess.run(command, check=True, timeout=SECONDS * 2)
