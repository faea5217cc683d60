"""A migration that is killed at each of its stages, while producers publish and workers work: nothing is lost."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from apps import depth
from ledger import Ledger, kill, ledger
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.queues.holding import HoldingQueue
from broker_app.topology.plan import apply_plan, compare_topology

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp

OLD = 'common_lanes = []\n[queues.default]\n[queues.lopri]\ntype = "classic"\ndead_letters = "discard"\n'
NEW = 'common_lanes = []\n[queues.default]\n[queues.lopri]\ndead_letters = "discard"\n'

PUBLISHER = """
import itertools, pathlib, sys, time
from shop import app

diary = pathlib.Path("published").open("a", buffering=1)
for number in itertools.count():
    try:
        countdown = 1 if number % 5 == 0 else None
        task = app.send_task("shop.note", queue="lopri", countdown=countdown, confirm_timeout=60)
    except Exception as error:
        diary.write(f"refused {error}\\n")
    else:
        diary.write(f"confirmed {task.id}\\n")
    time.sleep(0.05)
"""

MIGRATION = """
import os, signal, sys
from broker_app.topology.migrate import migrate
from shop import app

def told(stage, *_):
    if stage.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

for moved in migrate(app, "lopri", told):
    print(moved.queue)
"""
"""Kills itself as it begins a stage."""

STAGES = (
    "moving messages from lopri to",
    "waiting until the broker counts nothing in lopri,",
    "declaring lopri",
    "moving messages from tasks.moving.lopri to",
    "waiting until the broker counts nothing in tasks.moving.lopri,",
)
BACKLOG = 1_000
PATIENCE_SECONDS = 120


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str, management: Management) -> Iterator[Ledger]:
    """Return a project whose processes have the old settings, and whose migrations have the new."""
    with ledger(tmp_path, fresh_vhost_url, OLD, BROKER_APP_MANAGEMENT_URL=management.url) as made:
        (tmp_path / "new.toml").write_text(NEW)
        (tmp_path / "publisher.py").write_text(PUBLISHER)
        yield made


def published(shop: Ledger) -> list[list[str]]:
    """Return what the publisher noted: the outcome of each call, and the id or the error."""
    file = shop.folder / "published"
    return [line.split(" ", 1) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


@contextmanager
def publishing(shop: Ledger) -> Iterator[None]:
    """Publish for the length of a block, which begins when the first tasks are confirmed."""
    with shop.popen("python", "publisher.py") as process:
        try:
            wait_until(lambda: len(published(shop)) > 20, 60, "the publisher")
            yield
        finally:
            kill(process)


def fill(app: BrokerApp) -> set[str]:
    """Publish a backlog and return its ids."""
    with connect(app) as connection:
        apply_plan(app, connection, compare_topology(app, connection))
    return {app.send_task("shop.note", queue="lopri", confirm_timeout=60).id for _ in range(BACKLOG)}


def migrate(shop: Ledger, stage: str = "none of them") -> subprocess.CompletedProcess[str]:
    """Run a migration with the new settings, to its end or to the beginning of a stage."""
    shop.variables["BROKER_APP_CONFIG"] = "new.toml"
    try:
        return shop.run("python", "-c", MIGRATION, stage, timeout_seconds=180)
    finally:
        del shop.variables["BROKER_APP_CONFIG"]


@pytest.mark.version
@pytest.mark.timeout(420)
def test_killed_at_each_stage(shop: Ledger, management: Management) -> None:
    """Five are killed, the sixth ends it: no call of a producer failed, and every task that was confirmed has run.

    A task that ran twice was marked, or redelivered. Workers that started with the old settings work to the end.
    """
    app = shop.app(f"management_url = {json.dumps(management.url)}")
    confirmed = fill(app)
    with publishing(shop), shop.worker("-Q", "lopri", "-P", "threads", "-c", "4") as worker:
        for stage in STAGES:
            done = migrate(shop, stage)
            assert done.returncode == -signal.SIGKILL, (stage, done)
        last = migrate(shop)
        assert last.returncode == 0, last
        assert last.stdout == "lopri\n"
        before = len(published(shop))
        wait_until(lambda: len(published(shop)) > before + 20, 60, "the publisher to go on")
        assert worker.process.poll() is None

        assert depth(app, HoldingQueue("lopri").name) is None
        notes = published(shop)
        assert [rest for what, rest in notes if what != "confirmed"] == []
        confirmed |= {rest for _, rest in notes}
        missing = confirmed - shop.runs().keys()
        wait_until(lambda: not missing - shop.runs().keys(), PATIENCE_SECONDS, f"{len(missing)} tasks to run")

    for identity, runs in shop.runs().items():
        marked = sum(run["maybe_twice"] or run["redelivered"] for run in runs)
        assert len(runs) - 1 <= marked, (identity, runs)
