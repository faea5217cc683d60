"""A storm: a publisher and a worker at work while something fails, and the account of every message afterwards."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from apps import take
from ledger import Ledger, Worker, kill
from proxy import TcpProxy
from rabbitmqctl import port_of, rabbitmqctl
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mortal import MortalBroker

    from broker_app import BrokerApp

SLOTS = 4
SECONDS = 90
"""Longest time until all is well again; the machine may be busy."""

PUBLISHER = """
import json, pathlib, time
from uuid import uuid4
from shop import app

diary = pathlib.Path("published").open("a", buffering=1)

def note(what, identity):
    diary.write(json.dumps({"what": what, "id": identity}) + "\\n")

while not pathlib.Path("enough").exists():
    identity = str(uuid4())
    note("sending", identity)
    try:
        app.send_task("shop.nap", (0.05,), task_id=identity)
    except Exception as error:
        note("maybe" if getattr(error, "maybe_taken", True) else "refused", identity)
    else:
        note("confirmed", identity)
    time.sleep(0.1)
"""
"""Publishes until the file ``enough`` appears, and records the begin and the end of each call."""

SETTINGS = """
prefix = "{prefix}."
heartbeat_seconds = 4
[publish]
timeout_seconds = 5
connect_timeout_seconds = 2
[queues.default.fleet]
drain_seconds = 2
"""


def storm_seconds() -> float:
    """Return how long a storm shall last: 0, one fault, unless ``TEST_CHAOS_SECONDS`` asks for more."""
    return float(os.environ.get("TEST_CHAOS_SECONDS", "0"))


@dataclass(frozen=True, slots=True)
class Account:
    """The outcome of a storm for its messages.

    Attributes:
        messages: Confirmed ones.
        faults: How often something failed.
        lost: Confirmed, and neither run to the end nor in the dead letters.
        unstored: Run to the end without a stored result: their messages were acknowledged too early.
        duplicates: Starts beyond the first of a task, but those of messages that say that they may be twice.
        longest_gap_seconds: Between two ends of tasks.
    """

    messages: int
    faults: int
    lost: int
    unstored: int
    duplicates: int
    longest_gap_seconds: float


def go_through(fault: Callable[[Storm], None], storm: Storm) -> Account:
    """Let a fault come, again and again for `storm_seconds`, and return the account when all is well again."""
    until = time.monotonic() + storm_seconds()
    while True:
        storm.faults += 1
        fault(storm)
        storm.wait_for_tasks()
        if time.monotonic() >= until:
            return storm.account()


@dataclass
class Storm:
    """A publisher and a worker, each with a network of its own to one broker.

    Attributes:
        shop: The project, in whose folder all is written down.
        broker: The broker, which may be killed.
        pool: Celery's ``-P`` of the worker.
        network: Between the worker and the broker.
        publishers: Between the publisher and the broker.
        worker: The last one that was started.
    """

    shop: Ledger
    broker: MortalBroker
    pool: str
    network: TcpProxy
    publishers: TcpProxy
    faults: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    worker: Worker = field(init=False)

    @classmethod
    @contextmanager
    def over(cls, shop: Ledger, broker: MortalBroker, pool: str) -> Iterator[Self]:
        """Start both, and return when tasks run."""
        with TcpProxy.to(shop.url) as network, TcpProxy.to(shop.url) as publishers, ExitStack() as stack:
            made = cls(shop, broker, pool, network, publishers, _stack=stack)
            (shop.folder / "publisher.py").write_text(PUBLISHER)
            made.start_worker()
            shop.variables["BROKER_APP_BROKER_URL"] = publishers.url(shop.url)
            with shop.popen("python", "publisher.py") as publisher:
                try:
                    made.wait_for_tasks()
                    yield made
                finally:
                    kill(publisher)

    def start_worker(self) -> None:
        """Start a worker in the place of the last one, ready or not."""
        self.shop.variables["BROKER_APP_BROKER_URL"] = self.network.url(self.shop.url)
        self.worker = self._stack.enter_context(
            self.shop.starting("-P", self.pool, "-c", str(SLOTS), name=f"storm{self.faults}")
        )

    def control(self, *words: str) -> None:
        """Run `rabbitmqctl` on the broker's host."""
        rabbitmqctl(port_of(self.broker.amqp_url), *words)

    def wait_for_tasks(self, count: int = 10) -> None:
        """Wait until tasks that are published from now on run."""
        before = time.time()
        wait_until(lambda: len(self.ends(before)) >= count, SECONDS, "tasks to run")

    def ends(self, since: float = 0.0) -> list[float]:
        """Return when tasks ended, in order."""
        ended = self.shop.runs("end").values()
        return sorted(run["at"] for runs in ended for run in runs if run["at"] >= since)

    def account(self, *, without: int = 0) -> Account:
        """Publish no more, wait until all that was confirmed, but for so many, has an end; return the account."""
        (self.shop.folder / "enough").touch()
        confirmed = self._confirmed()
        app = self.shop.app()

        def missing() -> set[str]:
            nonlocal confirmed
            confirmed = self._confirmed()
            return confirmed - self.shop.runs("end").keys()

        fewest, deadline = float("inf"), 0.0
        while len(lost := missing()) > without and (len(lost) < fewest or time.monotonic() < deadline):
            if len(lost) < fewest:  # a backlog takes its time on a busy machine
                fewest, deadline = len(lost), time.monotonic() + SECONDS
            time.sleep(0.2)
        if lost:  # not looked for again: the publisher may be about to confirm one more
            lost -= {message.headers["id"] for message in take(app, f"{app.settings.prefix}default.dead")}
        ends = self.ends()
        return Account(
            messages=len(confirmed),
            faults=self.faults,
            lost=len(lost),
            unstored=len(self._unstored(app, confirmed & self.shop.runs("end").keys())),
            duplicates=sum(
                1 for runs in self.shop.runs("begin").values() for run in runs[1:] if not run["maybe_twice"]
            ),
            longest_gap_seconds=max(later - earlier for earlier, later in pairwise(ends)),
        )

    def _unstored(self, app: BrokerApp, ended: set[str]) -> set[str]:
        """Return the tasks that are not stored as succeeded; those that still run again have time to get there."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended = {identity for identity in ended if app.AsyncResult(identity).state != "SUCCESS"}
            if not ended:
                break
            time.sleep(0.2)
        return ended

    def _confirmed(self) -> set[str]:
        lines = (self.shop.folder / "published").read_text().split("\n")[:-1]
        entries = [json.loads(line) for line in lines]
        return {entry["id"] for entry in entries if entry["what"] == "confirmed"}
