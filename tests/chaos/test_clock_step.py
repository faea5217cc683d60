"""Clocks that are set while tasks are scheduled and run: what a wrong clock may shift is a tenth of a second.

The clocks of a worker and of a publisher are shifted by a module of the test's own that Python loads first; the
monotonic clock, as on a real machine, is not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ledger import Ledger, kill
from waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

SHIFTED = """
import datetime, os, pathlib, time

file, real_time, real = pathlib.Path(os.environ.get("SHIFTED_CLOCK", "none")), time.time, datetime.datetime


def shifted():
    try:
        return real_time() + float(file.read_text() or 0)
    except OSError:
        return real_time()


class Kind(type):
    def __instancecheck__(cls, one):
        return isinstance(one, real)


class Shifted(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(shifted(), tz)

    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(shifted(), datetime.timezone.utc).replace(tzinfo=None)


time.time, datetime.datetime = shifted, Shifted
"""

TASK = """

@app.task(bind=True)
def mark(self, due):
    at = time.clock_gettime(time.CLOCK_REALTIME)  # what the shift does not reach
    with file.open("a") as stream:
        entry = {"id": self.request.id, "what": "mark", "late": at - due, "shift": time.time() - at}
        stream.write(json.dumps(entry) + "\\n")
"""

PUBLISHER = """
import json, pathlib, random, time
from shop import app

diary = pathlib.Path("published").open("a", buffering=1)
while not pathlib.Path("enough").exists():
    countdown = random.choice((0.0, 0.05, 0.55, 1.25))
    due = time.clock_gettime(time.CLOCK_REALTIME) + countdown
    result = app.send_task("shop.mark", (due,), countdown=countdown, confirm_timeout=60)
    diary.write(json.dumps(result.id) + "\\n")
    time.sleep(0.05)
"""

SETTINGS = 'prefix = "{prefix}."\nheartbeat_seconds = 20\n[queues.default]\n'
"""A heartbeat that a step of an hour misses at once, and a busy machine does not."""

HOUR_SECONDS = 3_600
EARLY_SECONDS = 0.25
"""A tenth is the worker's, which it takes from the clock; the rest is RabbitMQ's timers."""

STEPS = [("worker", HOUR_SECONDS), ("publisher", HOUR_SECONDS), ("worker", -HOUR_SECONDS), ("publisher", 0)]


def set_clock(file: Path, seconds: float) -> None:
    """Set a clock in one step: a reader sees the old time or the new."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


def confirmed(shop: Ledger) -> set[str]:
    """Return the ids that the publisher was told are on the broker."""
    file = shop.folder / "published"
    return {json.loads(line) for line in file.read_text().split("\n")[:-1]} if file.exists() else set()


def go_on(shop: Ledger, publisher: subprocess.Popen[str]) -> None:
    """Wait until tasks that are published from now on have run."""
    before = confirmed(shop)

    def have_run() -> bool:
        assert publisher.poll() is None, publisher.communicate()
        return len((confirmed(shop) - before) & shop.runs("mark").keys()) > 20

    wait_until(have_run, 60, "tasks to run")


@pytest.mark.timeout(240)
def test_clocks_that_are_set(stormy_shop: Ledger) -> None:
    """By an hour, back and forth: each task runs once, none early, and the worker stays connected."""
    shop, clocks = stormy_shop, {}
    (shop.folder / "broker.toml").write_text(SETTINGS.format(prefix=shop.folder.name))
    (shop.folder / "sitecustomize.py").write_text(SHIFTED)
    (shop.folder / "publisher.py").write_text(PUBLISHER)
    with (shop.folder / "shop.py").open("a") as project:
        project.write(TASK)
    for name in ("worker", "publisher"):
        clocks[name] = shop.folder / f"clock-{name}"
        set_clock(clocks[name], 0)
    shop.variables["SHIFTED_CLOCK"] = str(clocks["worker"])
    with shop.worker("-P", "threads", "-c", "4") as worker:
        shop.variables["SHIFTED_CLOCK"] = str(clocks["publisher"])
        with shop.popen("python", "publisher.py") as publisher:
            try:
                for name, seconds in STEPS:
                    set_clock(clocks[name], seconds)
                    go_on(shop, publisher)
                (shop.folder / "enough").touch()
                assert publisher.wait(60) == 0
            finally:
                kill(publisher)
        wait_until(lambda: confirmed(shop) <= shop.runs("mark").keys(), 60, "all to run")
        assert worker.text().count("] Connected to") == 1, worker.text()
    runs = list(shop.runs("mark").values())
    assert all(len(found) == 1 for found in runs)
    assert min(found[0]["late"] for found in runs) > -EARLY_SECONDS
    assert {round(found[0]["shift"] / HOUR_SECONDS) for found in runs} == {-1, 1}  # its clock was set
    assert "Traceback" not in worker.text(), worker.text()
