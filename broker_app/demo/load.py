"""What the demo sends: a flood of downloads, and meanwhile a person's small calls, a chain and a chord."""

from __future__ import annotations

import json
import time
from importlib import resources
from typing import TYPE_CHECKING

from celery import chain, chord

from broker_app.errors import BrokerAppError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from broker_app.app import BrokerApp

SHIPPED_SITE = "http://127.0.0.1:8731"
"""Where the jobs of the shipped file point to."""

INTERACTIVE_PAUSE_SECONDS = 0.2
RESULT_TIMEOUT_SECONDS = 30.0
RESULT_INTERVAL_SECONDS = 0.02


def read_jobs(site_url: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield (task, args, queue) of each shipped job, its URL led to the site that runs now."""
    with resources.files("broker_app.demo").joinpath("jobs.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            job = json.loads(line)
            yield job["task"], [url.replace(SHIPPED_SITE, site_url) for url in job["args"]], job["queue"]


def send_flood(app: BrokerApp, site_url: str, stop: threading.Event) -> None:
    """Send every shipped job, one after the other, until done or told to stop."""
    for task, args, queue in read_jobs(site_url):
        if stop.is_set():
            return
        app.send_task(task, args, queue=queue)


class Person:
    """Somebody who calls small tasks on `default` and looks at each result, until told to stop."""

    def __init__(self, app: BrokerApp, say: Callable[[str], None]) -> None:
        self._app = app
        self._say = say
        self._add, self._mul, self._xsum = (
            app.tasks[f"broker_app.tasks.{name}"] for name in ("add", "mul", "xsum")
        )

    def work(self, stop: threading.Event) -> None:
        """Call until told to stop: one chain, one chord, one countdown, and many single calls between them."""
        for step in (self._chain, self._chord, self._countdown):
            if not stop.is_set():
                step()
                self._call()
        while not stop.wait(INTERACTIVE_PAUSE_SECONDS):
            self._call()

    def _call(self) -> None:
        self._expect(self._add.apply_async((2, 2), queue="default"), 4)

    def _chain(self) -> None:
        started = time.monotonic()
        steps = chain(self._add.s(2, 2), self._mul.s(8))
        self._expect(steps.apply_async(), 32)
        self._say(f"chain   add(2, 2) | mul(8)                 = 32 after {time.monotonic() - started:.2f} s")

    def _chord(self) -> None:
        started = time.monotonic()
        members = [self._add.s(number, number) for number in range(10)]
        self._expect(chord(members)(self._xsum.s()), 90)
        self._say(f"chord   xsum([add(0, 0) … add(9, 9)])      = 90 after {time.monotonic() - started:.2f} s")

    def _countdown(self) -> None:
        started = time.monotonic()
        self._expect(self._add.apply_async((2, 2), countdown=2.5), 4)
        self._say(f"delayed add(2, 2), countdown=2.5           =  4 after {time.monotonic() - started:.2f} s")

    def _expect(self, result: object, expected: int) -> None:
        got = result.get(timeout=RESULT_TIMEOUT_SECONDS, interval=RESULT_INTERVAL_SECONDS)  # type: ignore[attr-defined]
        if got != expected:
            raise BrokerAppError(f"demo: expected the result {expected}, got {got!r}; please report this")
