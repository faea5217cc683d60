"""A migration that is killed at each of its stages, while producers publish and workers work: nothing is lost."""

from __future__ import annotations

import json
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


def migration(shop: Ledger) -> subprocess.Popen[str]:
    """Start a migration with the new settings."""
    shop.variables["BROKER_APP_CONFIG"] = "new.toml"
    try:
        return shop.popen("broker-app", "-A", "shop", "topology", "migrate", "lopri", "--json")
    finally:
        del shop.variables["BROKER_APP_CONFIG"]


def kill_at(shop: Ledger, stage: str) -> list[str]:
    """Start a migration, kill it as it begins a stage, and return the stages that it told."""
    with migration(shop) as process:
        told = []
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line.strip())
            if line.startswith(stage):
                break
        kill(process)
    return told


@pytest.mark.version
@pytest.mark.timeout(420)
def test_killed_at_each_stage(shop: Ledger, management: Management) -> None:
    """Five are killed, the sixth ends it: no call of a producer failed, and every task that was confirmed has run.

    A task that ran twice was marked, or redelivered. Workers that started with the old settings work to the end.
    """
    app = shop.app(f"management_url = {json.dumps(management.url)}")
    confirmed = fill(app)
    with publishing(shop), shop.worker("-Q", "lopri", "-P", "threads", "-c", "4") as worker:
        killed = [kill_at(shop, stage) for stage in STAGES]
        with migration(shop) as last:
            out, err = last.communicate(timeout=180)
        assert last.returncode == 0, err
        lasts = ["".join(told[-1:]) for told in killed]  # one may have ended before it was killed
        assert sum(end.startswith(stage) for end, stage in zip(lasts, STAGES, strict=True)) >= 4, killed
        (moved,) = json.loads(out)["queues"]
        assert moved["queue"] == "lopri"
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
