"""Scheduled tasks when things are killed: none that was confirmed is lost, and none is due at another moment."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from ledger import Ledger, kill, ledger
from mortal import MortalBroker, mortal_broker
from rabbitmqctl import holding
from waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

pytestmark = pytest.mark.timeout(400)

PUBLISHER = """
import json, pathlib, random, sys, time
from uuid import uuid4
from shop import app

name, shortest, longest, later_patience = sys.argv[1], *map(float, sys.argv[2:])
diary = pathlib.Path(f"published-{name}").open("a", buffering=1)

def note(what, **facts):
    diary.write(json.dumps({"what": what} | facts) + "\\n")

patience = 60  # for the first call, which loads the result store and connects
while True:
    identity, countdown = str(uuid4()), random.uniform(shortest, longest)
    note("sending", id=identity, due=time.time() + countdown)
    try:
        app.send_task("shop.note", task_id=identity, countdown=countdown, confirm_timeout=patience)
    except Exception as error:
        note("maybe" if getattr(error, "maybe_taken", True) else "refused", id=identity, error=str(error))
    else:
        note("confirmed", id=identity)
    patience = later_patience
    time.sleep(0.01)
"""
"""Publishes until it is killed, and notes before and after each call."""

LATE_SECONDS = 80
"""Longest delay of a due task: the machine may be busy, and the worker connects again. Three times as long, as
`wait_until` takes it, is also more than the 180 s after which RabbitMQ repeats a hop that was not confirmed."""

EARLY_SECONDS = 0.1
"""RabbitMQ's timers, and the clocks of one machine."""

STANDING_SECONDS = 35
"""Longer than the broker is away."""

HOP_SECONDS = 3
"""Tolerance between the due time of a task and the moment it is handed on."""


@dataclass
class Diary:
    """The record of a publisher.

    Attributes:
        due: When each id was due, of all that were sent.
        confirmed: What the broker took for certain.
        unsure: What it may have taken: no answer came, or the publisher was killed before it noted one.
    """

    due: dict[str, float]
    confirmed: set[str]
    unsure: set[str]

    @classmethod
    def read(cls, shop: Ledger, name: str) -> Diary:
        """Read it; the last line may be half written."""
        due, ends = {}, {}
        for line in (shop.folder / f"published-{name}").read_text().split("\n")[:-1]:
            entry = json.loads(line)
            if entry["what"] == "sending":
                due[entry["id"]] = entry["due"]
            else:
                ends[entry["id"]] = entry["what"]
        confirmed = {identity for identity, what in ends.items() if what == "confirmed"}
        refused = {identity for identity, what in ends.items() if what == "refused"}
        return cls(due, confirmed, due.keys() - confirmed - refused)


@pytest.fixture(scope="module")
def mortal(broker: FoundBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalBroker]:
    """Return a broker that the tests of this module may kill; each leaves it running."""
    with mortal_broker(broker, tmp_path_factory.mktemp("mortal")) as started:
        yield started


@pytest.fixture
def shop(tmp_path: Path, mortal: MortalBroker, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Return a project with names of its own on that broker."""
    settings = f'prefix = "{request.node.name}."\n[queues.default]\n'
    with ledger(tmp_path, mortal.amqp_url, settings) as made:
        (tmp_path / "publisher.py").write_text(PUBLISHER)
        yield made


@contextmanager
def publishing(
    shop: Ledger, name: str, shortest: float, longest: float, patience: float = 3
) -> Iterator[subprocess.Popen[str]]:
    """Run a publisher, from when the broker has confirmed its first tasks; it is killed with the block."""
    file = shop.folder / f"published-{name}"
    with shop.popen("python", "publisher.py", name, str(shortest), str(longest), str(patience)) as process:
        try:
            wait_until(lambda: file.exists() and len(Diary.read(shop, name).confirmed) > 20, 60, "the publisher")
            yield process
        finally:
            kill(process)


def last_confirmed(shop: Ledger, name: str) -> float:
    """Return when the last task that was confirmed is due, seconds since the epoch; it was published before."""
    diary = Diary.read(shop, name)
    return max(diary.due[one] for one in diary.confirmed) - 5


def check(shop: Ledger, diary: Diary, in_flight: Collection[str] = ()) -> None:
    """Wait until every confirmed task has run, and judge all runs.

    Args:
        shop: Where they ran.
        diary: What was published.
        in_flight: What the broker may have been handing on when it was killed: that it may do twice.
    """
    patience_seconds = max(diary.due.values()) - time.time() + LATE_SECONDS
    try:
        wait_until(
            lambda: not diary.confirmed - shop.runs().keys(), patience_seconds, "all confirmed tasks to run"
        )
    except AssertionError as error:
        error.add_note(holding(shop.url, shop.app().settings.prefix))
        raise
    runs = {identity: found for identity, found in shop.runs().items() if identity in diary.due}
    assert runs.keys() <= diary.confirmed | diary.unsure
    assert min(run["at"] - diary.due[one] for one, found in runs.items() for run in found) > -EARLY_SECONDS
    twice = {identity for identity, found in runs.items() if len(found) > 1}
    assert all(run["maybe_twice"] or run["redelivered"] for one in twice - set(in_flight) for run in runs[one][1:])


def test_publishers_that_are_killed(shop: Ledger) -> None:
    """Two publishers die: each confirmed task runs once, and only the last call of each is unsure."""
    with shop.worker("-P", "threads", "-c", "4"):
        for name in ("one", "two"):
            with publishing(shop, name, 0.5, 3, patience=60):
                pass  # killed at its end
        for name in ("one", "two"):
            diary = Diary.read(shop, name)
            assert len(diary.unsure) <= 1
            check(shop, diary)
        assert all(len(found) == 1 for found in shop.runs().values())


@pytest.mark.version
def test_a_broker_that_is_killed(shop: Ledger, mortal: MortalBroker) -> None:
    """Tasks wait in lanes and hop while it is killed, with a publisher and a worker; other processes live on.

    Tasks confirmed before, during and after run, never early; twice only if marked so, or while hopping. A
    task in a lane is due on time; the broker's downtime does not delay it further.
    """
    app = shop.app()
    with shop.worker("-P", "threads", "-c", "4") as dies, shop.worker("-P", "threads", "-c", "4", name="two"):
        standing = {app.send_task("shop.note", countdown=STANDING_SECONDS).id for _ in range(20)}
        with publishing(shop, "dies", 0.5, 5) as publisher, publishing(shop, "lives", 0.5, 5):
            wait_until(lambda: len(shop.runs()) > 50, 60, "tasks to hop")
            mortal.kill()
            killed_at = time.time()
            kill(publisher)
            kill(dies.process)
            mortal.start()
            back_at = time.time()
            wait_until(lambda: last_confirmed(shop, "lives") > back_at, 60, "the other publisher to be back")

        for name in ("dies", "lives"):
            diary = Diary.read(shop, name)
            check(shop, diary, {one for one, due in diary.due.items() if abs(due - killed_at) < HOP_SECONDS})
        wait_until(lambda: not standing - shop.runs().keys(), STANDING_SECONDS + LATE_SECONDS, "those that stood")
        assert all(len(shop.runs()[one]) == 1 for one in standing)
        assert max(shop.runs()[one][0]["at"] for one in standing) < back_at + STANDING_SECONDS
