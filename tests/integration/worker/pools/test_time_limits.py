"""Time limits where tasks share the worker's process: they end, their results say so, their slots are free."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from configured import failure
from ledger import Ledger, Worker, ledger
from waiting import wait_until

from broker_app.queues.dead_letters import EXCEPTION_HEADER, REASON_HEADER, TRACEBACK_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 90
TASKS = """

from types import SimpleNamespace

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_postrun


def wait_in_steps(seconds=120):
    for _ in range(int(seconds / 0.05)):
        time.sleep(0.05)


@app.task(bind=True)
def slow(self):
    write(self.request, "begin")
    wait_in_steps()


class Telling(app.Task):
    def after_return(self, status, retval, task_id, *_):
        write(SimpleNamespace(id=task_id, delivery_info={}, get={}.get), f"after {status}")


@app.task(bind=True, acks_late=False, time_limit=1, base=Telling)
def early(self):
    wait_in_steps()


@task_postrun.connect(weak=False)
def note_end(task, state, **_):
    if task.name.endswith("early"):
        write(task.request, f"postrun {state}")


@app.task(bind=True, time_limit=1)
def stubborn(self):
    while True:
        try:
            wait_in_steps()
        except Exception:
            write(self.request, "caught")


@app.task(bind=True)
def polite(self):
    try:
        wait_in_steps()
    except SoftTimeLimitExceeded:
        return "cleaned up"
"""


COROUTINES = re.sub(r"^def (?=wait|slow|early|stub|polite)", "async def ", TASKS, flags=re.MULTILINE)
COROUTINES = COROUTINES.replace("time.sleep(", "await asyncio.sleep(")
COROUTINES = re.sub(r"(?<= )wait_in_steps\(\)", "await wait_in_steps()", COROUTINES)
"""The same tasks, each an ``async def``."""


@pytest.fixture(scope="module", params=["threads", "gevent", "asyncio"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vhost_url: str
) -> Iterator[Ledger]:
    """Return a project with a worker of two slots and a time limit, which the tests of a pool share."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = f'prefix = "{request.param}."\n[queues.default]\n'
    with ledger(folder, vhost_url, settings) as made:
        tasks = COROUTINES if request.param == "asyncio" else TASKS
        (folder / "shop.py").write_text((folder / "shop.py").read_text() + tasks)
        with made.worker("-Q", "default", "-P", request.param, "-c", "2", "--time-limit", "2"):
            yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process."""
    return shop.app()


@pytest.fixture
def threads(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project for a worker of its own."""
    with ledger(tmp_path, fresh_vhost_url, "[queues.default]\n") as made:
        yield made


def run_side_by_side(shop: Ledger, app: BrokerApp, count: int) -> None:
    """Show that this many slots are free: as many tasks run at once."""
    go = shop.folder / "go"
    go.unlink(missing_ok=True)
    sent = {app.send_task("shop.hold", time_limit=2 * SECONDS).id for _ in range(count)}
    wait_until(lambda: shop.runs("begin").keys() >= sent, SECONDS, "all of them to begin")
    go.touch()
    wait_until(lambda: shop.runs("end").keys() >= sent, SECONDS, "their ends")


def test_a_task_beyond_the_workers_limit_fails(shop: Ledger, app: BrokerApp) -> None:
    """Its result says TimeLimitExceeded, its dead letter why and where it was; its slots are free again."""
    late = [app.send_task("shop.slow"), app.send_task("shop.slow")]
    assert all(isinstance(failure(one), TimeLimitExceeded) for one in late)
    name = f"{app.settings.prefix}default"
    wait_until(lambda: depth(app, f"{name}.dead") == 2, SECONDS, "the dead letters")
    for letter in take(app, f"{name}.dead"):
        assert letter.headers[REASON_HEADER] == "timed_out"
        assert letter.headers[EXCEPTION_HEADER].endswith("TimeLimitExceeded(2.0,)")
        assert "wait_in_steps" in letter.headers[TRACEBACK_HEADER]
    run_side_by_side(shop, app, 2)
    assert depth(app, name) == 0


def test_its_end_is_told_once(shop: Ledger, app: BrokerApp) -> None:
    """With acks_late=False: one dead letter, one after_return and one task_postrun, which say FAILURE."""
    early = app.send_task("shop.early")
    assert isinstance(failure(early), TimeLimitExceeded)
    told = ("after FAILURE", "postrun FAILURE")
    wait_until(lambda: all(early.id in shop.runs(what) for what in told), SECONDS, "its end to be told")
    run_side_by_side(shop, app, 2)
    letters = take(app, f"{app.settings.prefix}default.dead")
    assert [letter.headers[REASON_HEADER] for letter in letters if letter.headers["id"] == early.id] == [
        "timed_out"
    ]
    assert [len(shop.runs(what)[early.id]) for what in told] == [1, 1]


def test_a_task_cannot_swallow_its_end(shop: Ledger, app: BrokerApp) -> None:
    """One that catches every exception ends all the same, by the limit of its own decorator."""
    assert isinstance(failure(app.send_task("shop.stubborn")), TimeLimitExceeded)
    run_side_by_side(shop, app, 2)


def test_the_callers_limits_count_first(app: BrokerApp) -> None:
    """Given to apply_async, a soft limit is raised inside the task, which may clean up; and a hard one ends it."""
    polite = app.send_task("shop.polite", soft_time_limit=0.5)
    slow = app.send_task("shop.slow", soft_time_limit=0.5)
    late = app.send_task("shop.polite", time_limit=1)
    assert polite.get(timeout=SECONDS, interval=0.05) == "cleaned up"
    assert isinstance(failure(slow), SoftTimeLimitExceeded)
    assert failure(late).args == (1,)


def end_late(app: BrokerApp, seconds: float) -> None:
    """Run a task that no thread can be made to leave, beyond its limit, and wait for its result."""
    assert isinstance(failure(app.send_task("shop.nap", (seconds,), time_limit=1)), TimeLimitExceeded)


def test_a_stuck_thread_is_replaced_until_too_many_are(threads: Ledger) -> None:
    """A task that waits in one long call has failed and is settled all the same, and gives its slot to others.

    When as many are stuck as there are slots, the worker gives back what it holds and ends with an exit code that
    says it was not asked to.
    """
    app = threads.app()
    with threads.worker("-Q", "default", "-P", "threads", "-c", "2") as worker:
        end_late(app, 300)
        wait_until(lambda: "stuck tasks: 1" in worker.text(), SECONDS, "it to be taken for stuck")
        run_side_by_side(threads, app, 2)
        end_late(app, 300)
        assert ended_with(worker) == 1, worker.text()
        back = app.send_task("shop.nap", (1,))
        assert depth(app, "default.dead") == 2
        assert depth(app, "default") == 1
    assert back.id not in threads.runs("begin")


def ended_with(worker: Worker) -> int:
    """Return the exit code of a worker that ends by itself."""
    wait_until(lambda: worker.process.poll() is not None, SECONDS, "the worker to end by itself")
    code: int = worker.process.returncode
    return code
