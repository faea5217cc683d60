"""The demo's workload: a flood of downloads, and in parallel small interactive calls, a chain and a chord."""

from __future__ import annotations

import json
import threading
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

from celery import chain, chord
from celery.exceptions import TimeoutError as ResultTimeoutError

from broker_app.errors import BrokerAppError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_app.app import BrokerApp

SHIPPED_SITE = "http://127.0.0.1:8731"
"""The site in the URLs of the shipped job file."""

INTERACTIVE_PAUSE_SECONDS = 0.2
RESULT_TIMEOUT_SECONDS = 30.0
RESULT_INTERVAL_SECONDS = 0.02
_SLICE_SECONDS = 0.5
"""Interval at which a wait for a result checks ``stop``."""

Job = tuple[str, list[str], str]
"""A task's name, its arguments, and its queue."""


def read_jobs() -> list[Job]:
    """Return the jobs in the shipped file, whose URLs start with `SHIPPED_SITE`."""
    text = resources.files("broker_app.demo").joinpath("jobs.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [(record["task"], record["args"], record["queue"]) for record in records]


def send_flood(app: BrokerApp, jobs: Sequence[Job], site_url: str, stop: threading.Event) -> None:
    """Send the jobs one by one, with URLs of the running site, until done or ``stop`` is set."""
    for task, args, queue in jobs:
        if stop.is_set():
            return
        app.send_task(task, [url.replace(SHIPPED_SITE, site_url) for url in args], queue=queue)


class InteractiveCaller:
    """Simulates a user who calls small tasks on `default` and waits for each result.

    Attributes:
        has_shown: Set once the chain, the chord and the countdown are done.
    """

    def __init__(self, app: BrokerApp, say: Callable[[str], None], stop: threading.Event) -> None:
        self.has_shown = threading.Event()
        self._say = say
        self._stop = stop
        self._add, self._mul, self._xsum = (
            app.tasks[f"broker_app.tasks.{name}"].signature().set(queue="default")
            for name in ("add", "mul", "xsum")
        )

    def work(self) -> None:
        """Make one chain, one chord, one countdown, and single calls in between and until ``stop`` is set."""
        for step in (self._chain, self._chord, self._countdown):
            if not self._stop.is_set():
                step()
                self._call()
        self.has_shown.set()
        while not self._stop.wait(INTERACTIVE_PAUSE_SECONDS):
            self._call()

    def _call(self) -> None:
        self._expect(self._add.clone((2, 2)).apply_async(), 4)

    def _chain(self) -> None:
        steps = chain(self._add.clone((2, 2)), self._mul.clone((8,)))
        self._show("chain   add(2, 2) | mul(8)                 = 32", steps.apply_async, 32)

    def _chord(self) -> None:
        members = [self._add.clone((number, number)) for number in range(10)]
        body = self._xsum.clone()
        self._show("chord   xsum([add(0, 0) … add(9, 9)])      = 90", lambda: chord(members)(body), 90)

    def _countdown(self) -> None:
        delayed = self._add.clone((2, 2)).set(countdown=2.5)
        self._show("delayed add(2, 2), countdown=2.5           =  4", delayed.apply_async, 4)

    def _show(self, text: str, call: Callable[[], Any], expected: int) -> None:
        started = time.monotonic()
        if self._expect(call(), expected):
            self._say(f"{text} after {time.monotonic() - started:.2f} s")

    def _expect(self, result: Any, expected: int) -> bool:
        """Wait for a result, and return whether it arrived before ``stop`` was set."""
        deadline = time.monotonic() + RESULT_TIMEOUT_SECONDS
        while True:
            try:
                got = result.get(timeout=_SLICE_SECONDS, interval=RESULT_INTERVAL_SECONDS)
            except ResultTimeoutError as error:
                if self._stop.is_set():
                    return False
                if time.monotonic() > deadline:
                    raise BrokerAppError(
                        f"demo: expected the result {expected} within {RESULT_TIMEOUT_SECONDS:.0f} s, got none; "
                        f"is the machine busy?"
                    ) from error
            else:
                if got != expected:
                    raise BrokerAppError(f"demo: expected the result {expected}, got {got!r}; please report this")
                return True
