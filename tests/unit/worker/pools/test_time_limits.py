"""Time limits of tasks in threads, without a broker: the right task is interrupted, and no other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.concurrency.thread import TaskPool
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from waiting import wait_until

from broker_app.worker.pools.interrupts import InterruptibleThreads
from broker_app.worker.pools.time_limits import TimeLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30.0


@dataclass
class Accepted:
    """The part of a request that the limits use.

    Attributes:
        time_limits: Hard and soft, of the caller.
        task: With its own limits.
        told: The limits that it was told to be over.
    """

    time_limits: tuple[float | None, float | None] = (None, None)
    task: Any = field(default_factory=lambda: SimpleNamespace(time_limit=None, soft_time_limit=None))
    told: list[float] = field(default_factory=list)

    def time_out(self, limit_seconds: float, where: str) -> None:
        """Note it."""
        assert where
        self.told.append(limit_seconds)

    def humaninfo(self) -> str:
        """Return its name."""
        return "a task"


@dataclass
class Worker:
    """A thread pool with limits.

    Attributes:
        pool: Celery's.
        limits: Its limits.
        too_many: How often too many were stuck.
    """

    pool: Any
    limits: TimeLimits
    too_many: list[bool]


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return a pool of two threads; the limits of its tasks are 50 s and none."""
    too_many: list[bool] = []
    pool = TaskPool(limit=2)
    limits = TimeLimits(
        InterruptibleThreads(pool.executor),
        hard_seconds=50,
        soft_seconds=None,
        most_stuck=2,
        on_too_many=lambda: too_many.append(True),
    )
    yield Worker(pool, limits, too_many)
    limits.close()
    pool.executor.shutdown()


@pytest.fixture
def gate(worker: Worker) -> Iterator[threading.Event]:
    """Return what stuck tasks wait for, at the latest until the test ends."""
    del worker  # its threads are joined after this
    event = threading.Event()
    yield event
    event.set()


def spin(seconds: float) -> str:
    """Take so long, in steps of Python."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "done"


def test_the_nearest_limit_counts(worker: Worker) -> None:
    """The caller's, else the task's, else the worker's; soft and hard each."""
    own = SimpleNamespace(time_limit=0.1, soft_time_limit=None)
    for accepted in (Accepted((0.1, None)), Accepted(task=own)):
        worker.limits.accept(accepted)  # type: ignore[arg-type] # all that is asked of a request
        with pytest.raises(Ignore):
            worker.limits.run(lambda: spin(SECONDS))
        assert accepted.told == [0.1]
    worker.limits.accept(Accepted((5, 0.1)))  # type: ignore[arg-type]
    with pytest.raises(SoftTimeLimitExceeded):
        worker.limits.run(lambda: spin(SECONDS))
    worker.limits.accept(Accepted())  # type: ignore[arg-type]
    assert worker.limits.run(lambda: spin(0.1)) == "done"


def test_what_ends_at_its_limit_harms_nothing_behind_it(worker: Worker) -> None:
    """However close the end and the limit are: one outcome, success or limit, and other tasks are unharmed."""
    for number in range(80):
        accepted = Accepted((0.003 + number % 7 * 0.0001, 0.003))
        worker.limits.accept(accepted)  # type: ignore[arg-type]
        is_over = False
        try:
            worker.limits.run(lambda: spin(0.003))
        except Ignore:
            is_over = True
        except SoftTimeLimitExceeded:
            pass
        assert accepted.told == [accepted.time_limits[0]] * is_over
        spin(0.001)  # what was meant for the task would be raised here
    assert worker.limits.stuck == 0
    late = Accepted((0.05, None))
    worker.pool.executor.submit(run, worker, late, lambda: spin(SECONDS)).result(SECONDS)
    assert late.told == [0.05], "limits still hold in other threads"


def test_a_task_within_its_limits_is_left_alone(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised in it and nothing cancelled, which would slow down Python 3.11 for all tasks."""
    touched: list[Any] = []
    monkeypatch.setattr(InterruptibleThreads, "interrupt", lambda *facts: touched.append(facts))
    worker.limits.accept(Accepted((SECONDS, SECONDS)))  # type: ignore[arg-type]
    assert worker.limits.run(lambda: "done") == "done"
    assert touched == []


def test_a_thread_that_is_traced_goes_on_after_an_interrupt() -> None:
    """A debugger or coverage traces it; an error that is cancelled before it is raised leaves nothing behind."""
    subprocess.run([sys.executable, "-c", TRACED], check=True, timeout=110)


TRACED = """
import sys
import threading
from contextlib import suppress

from broker_app.worker.pools.interrupts import InterruptibleThreads

threads, here = InterruptibleThreads(None), threading.get_ident()
sys.settrace(lambda *_: None)
with suppress(KeyError):
    threads.interrupt(here, KeyError)
threads.interrupt(here, None)
threads.interrupt(here, None)
threads.frame(here)
"""


def run(worker: Worker, accepted: Accepted, body: Any) -> None:
    """Run a body in a thread of the pool, as Celery would."""
    worker.limits.accept(accepted)  # type: ignore[arg-type]
    with suppress(Ignore):
        worker.limits.run(body)


def test_a_stuck_thread_is_replaced_and_rests_when_it_comes_back(worker: Worker, gate: threading.Event) -> None:
    """There are never more tasks at once than slots."""
    lock, running, most = threading.Lock(), [0], [0]

    def count() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    late = Accepted((0.1, None))
    worker.pool.executor.submit(run, worker, late, gate.wait)
    wait_until(lambda: worker.limits.stuck == 1, SECONDS, "it to be stuck")
    assert late.told == [0.1]
    gate.set()
    wait_until(lambda: worker.limits.stuck == 0, SECONDS, "it to come back")
    for one in [worker.pool.executor.submit(run, worker, Accepted(), count) for _ in range(20)]:
        one.result(SECONDS)
    assert most[0] == 2
    assert worker.too_many == []


def test_too_many_stuck_threads_are_told_once(worker: Worker, gate: threading.Event) -> None:
    """As many as there are slots are too many; further ones change nothing."""
    for _ in range(3):
        worker.pool.executor.submit(run, worker, Accepted((0.1, None)), gate.wait)
    wait_until(lambda: worker.limits.stuck == 3, SECONDS, "all to be stuck")
    assert worker.too_many == [True]
