"""The demo's run: sends the flood and the interactive calls, and shows both until all tasks are done."""

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

MOST_SECONDS = 150.0
"""Maximum duration of the demo; on an idle machine it takes a third of a minute."""

DEAD_LETTER_SECONDS = 20.0
"""A dead letter may arrive in its queue shortly after the task's failure event."""

_PAUSE_SECONDS = 0.2


def play(environment: Environment, statistics: Statistics, jobs: Sequence[Job], say: display.StepPrinter) -> None:
    """Send the flood and the interactive calls, and show both until every task has ended.

    Raises:
        BrokerAppError: A task failed to publish, or a result was wrong.
    """
    stop = threading.Event()
    caller = InteractiveCaller(environment.app, say, stop)
    deadline = time.monotonic() + MOST_SECONDS
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="demo") as threads:
        try:
            flood = threads.submit(send_flood, environment.app, jobs, environment.site_url, stop)
            calls = threads.submit(caller.work)
            with display.live(statistics, say.console) as show:
                while time.monotonic() < deadline and not _is_over(flood, calls, caller, statistics):
                    show()
                    time.sleep(_PAUSE_SECONDS)
        finally:
            stop.set()
        flood.result()
        calls.result()
    _settle(statistics, deadline)


def verdict(app: BrokerApp, statistics: Statistics) -> str:
    """Check the dead letters on the broker, and return the final sentence about failed tasks.

    Raises:
        BrokerAppError: Tasks were unfinished when the time was up, or the dead letters do not match the failures.
    """
    if statistics.left:
        raise BrokerAppError(
            f"demo: expected every task to end within {MOST_SECONDS:.0f} s, {statistics.left} did not; "
            f"is the machine busy?"
        )
    kept = [spec for spec in app.settings.specs() if spec.dead_letters is DeadLetters.KEEP]
    failed = {
        spec.dead_name: statistics.queues[spec.name].failed for spec in kept if spec.name in statistics.queues
    }
    deadline = time.monotonic() + DEAD_LETTER_SECONDS
    while (dead := _depths(app, failed)) != failed and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    if dead != failed:
        raise BrokerAppError(
            f"demo: expected as many dead letters as failed tasks ({failed}), got {dead}; please report this"
        )
    lopri = statistics.queues["lopri"]
    where = "now in lopri.dead" if "lopri" in {spec.name for spec in kept} else "discarded, as the settings say"
    return f"failed with 404: {lopri.failed:,} of {lopri.sent:,} downloads, {where}; nothing was lost"


def _depths(app: BrokerApp, queues: Iterable[str]) -> dict[str, int | None]:
    with connect(app) as connection:
        return {queue: queue_depth(connection, queue) for queue in queues}


def _is_over(flood: Future[None], calls: Future[None], caller: InteractiveCaller, statistics: Statistics) -> bool:
    """Return whether the flood is done and the caller has shown everything, or one of them has failed."""
    if calls.done():
        return True
    if not flood.done():
        return False
    return flood.exception() is not None or (caller.has_shown.is_set() and not statistics.queues["lopri"].left)


def _settle(statistics: Statistics, deadline: float) -> None:
    """Wait for the last tasks' events."""
    while statistics.left and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
