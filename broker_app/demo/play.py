"""The demo's course: the flood and the person at work, shown until all is done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker_app.demo import display
from broker_app.demo.load import Person, send_flood
from broker_app.demo.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from rich.console import Console

    from broker_app.app import BrokerApp

MOST_SECONDS = 50.0
"""The demo ends by then, done or not."""

_PAUSE_SECONDS = 0.2


def play(app: BrokerApp, tally: Tally, site_url: str, console: Console, say: Callable[[str], None]) -> None:
    """Send the flood and the person's calls, and show both until every task has ended.

    Raises:
        BrokerAppError: A task could not be published, or a result was not what it should be.
    """
    app.control.enable_events()  # what the tally counts
    stop = threading.Event()
    deadline = time.monotonic() + MOST_SECONDS
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="demo") as threads:
        flood = threads.submit(send_flood, app, site_url, stop)
        person = threads.submit(Person(app, say).work, stop)
        try:
            with display.live(tally, console) as show:
                while time.monotonic() < deadline and not _is_over(flood, person, tally):
                    show()
                    time.sleep(_PAUSE_SECONDS)
        finally:
            stop.set()
        flood.result()
        person.result()
    _settle(tally, deadline)


def _is_over(flood: Future[None], person: Future[None], tally: Tally) -> bool:
    """Return whether the flood has drained, or one of the two has failed."""
    if person.done():
        return True
    return flood.done() and (flood.exception() is not None or not tally.queues["lopri"].left)


def _settle(tally: Tally, deadline: float) -> None:
    """Wait for the events of the last tasks."""
    while tally.left and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


__all__ = ["Tally", "play"]
