"""The demo's course: the flood and the person at work, shown until all is done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth
from broker_app.demo import display
from broker_app.demo.workload import InteractiveCaller, send_flood
from broker_app.errors import BrokerAppError
from broker_app.queues import DeadLetters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

    from broker_app.app import BrokerApp
    from broker_app.demo.environment import Environment
    from broker_app.demo.statistics import Statistics
    from broker_app.demo.workload import Job

MOST_SECONDS = 50.0
"""The demo ends by then, done or not."""

DEAD_LETTER_SECONDS = 5.0
"""A dead letter stands in its queue shortly after the task's failure is known."""

_PAUSE_SECONDS = 0.2


def play(stage: Environment, tally: Statistics, jobs: Sequence[Job], say: display.StepPrinter) -> None:
    """Send the flood and the person's calls, and show both until every task has ended.

    Raises:
        BrokerAppError: A task could not be published, or a result was not what it should be.
    """
    stop = threading.Event()
    person = InteractiveCaller(stage.app, say, stop)
    deadline = time.monotonic() + MOST_SECONDS
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="demo") as threads:
        try:
            flood = threads.submit(send_flood, stage.app, jobs, stage.site_url, stop)
            calls = threads.submit(person.work)
            with display.live(tally, say.console) as show:
                while time.monotonic() < deadline and not _is_over(flood, calls, person, tally):
                    show()
                    time.sleep(_PAUSE_SECONDS)
        finally:
            stop.set()
        flood.result()
        calls.result()
    _settle(tally, deadline)


def verdict(app: BrokerApp, tally: Statistics) -> str:
    """Return what became of what failed, as the broker tells it.

    Raises:
        BrokerAppError: Tasks had not ended when the time was up, or dead letters do not add up to what failed.
    """
    if tally.left:
        raise BrokerAppError(
            f"demo: expected every task to end in {MOST_SECONDS:.0f} s, {tally.left} had not; is the machine busy?"
        )
    kept = [spec for spec in app.settings.specs() if spec.dead_letters is DeadLetters.KEEP]
    failed = {spec.dead_name: tally.queues[spec.name].failed for spec in kept if spec.name in tally.queues}
    deadline = time.monotonic() + DEAD_LETTER_SECONDS
    while (dead := _depths(app, failed)) != failed and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    if dead != failed:
        raise BrokerAppError(
            f"demo: expected as many dead letters as failed tasks ({failed}), got {dead}; please report this"
        )
    lopri = tally.queues["lopri"]
    where = "now in lopri.dead" if "lopri" in {spec.name for spec in kept} else "discarded, as the settings say"
    return f"failed with 404: {lopri.failed:,} of {lopri.sent:,} downloads, {where}; nothing was lost"


def _depths(app: BrokerApp, queues: Iterable[str]) -> dict[str, int | None]:
    with connect(app) as connection:
        return {queue: queue_depth(connection, queue) for queue in queues}


def _is_over(flood: Future[None], calls: Future[None], person: InteractiveCaller, tally: Statistics) -> bool:
    """Return whether the flood has drained and the person has shown everything, or one of the two has failed."""
    if calls.done():
        return True
    if not flood.done():
        return False
    return flood.exception() is not None or (person.has_shown.is_set() and not tally.queues["lopri"].left)


def _settle(tally: Statistics, deadline: float) -> None:
    """Wait for the events of the last tasks."""
    while tally.left and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
