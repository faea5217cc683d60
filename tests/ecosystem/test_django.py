"""A Django project with broker-app: docs/how-to/django.md, followed to the letter."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django_shop import DATABASE, put_shop
from waiting import wait_until

if TYPE_CHECKING:
    from projects import Project

SECONDS = 60.0
POOLS = ["threads", "prefork", "gevent", "solo"]
SLOTS = 2
"""Of a worker of the project."""

TASKS = """

import time

from shop import celery_app


@celery_app.task(name="orders.tasks.hold")
def hold():
    found = Order.objects.count()
    time.sleep(0.4)
    return found


@shared_task(throws=(Order.DoesNotExist,))
def look(pk):
    return Order.objects.get(pk=pk).state
"""
SETUP = """
import json
import threading
import django
import shop
django.setup()
from celery import _state, signals
from django.db import transaction
from orders.models import Order
from orders.tasks import hold, look, ship
from orders.views import buy
"""
COMMIT = """
sent, found = [], {}


@signals.before_task_publish.connect
def note(sender, routing_key, **_):
    sent.append([sender, routing_key])


with transaction.atomic():
    hold.delay_on_commit()
    look.apply_async_on_commit((1,), queue="lopri")
    found["before the commit"] = list(sent)
found["after the commit"] = list(sent)
try:
    with transaction.atomic():
        hold.delay_on_commit()
        look.apply_async_on_commit((1,))
        raise LookupError
except LookupError:
    found["after a roll-back"] = len(sent)
thread = threading.Thread(target=lambda: found.update(app=ship.app.main))
thread.start()
thread.join()
buy()
found["of the view"] = [key for sender, key in sent[2:]]
found["timezone"] = str(shop.celery_app.conf.timezone)
print(json.dumps(found))
"""
PUBLISH = """
with transaction.atomic():
    order = Order.objects.create(state="new")
    ship.delay_on_commit(order.pk)
shop.celery_app.send_task("orders.tasks.nobody")
look.apply_async((order.pk,), expires=-1)
look.delay(-1)
for _ in range(5):
    hold.delay()
"""
ENDED = {"SUCCESS": 6, "FAILURE": 2, "REVOKED": 1}


@pytest.fixture(scope="module")
def shop(project: Project) -> Project:
    """Return the document's project, with a database."""
    put_shop(project, tasks=TASKS)
    run(
        project,
        SETUP + 'from django.core.management import call_command\ncall_command("migrate", run_syncdb=True)',
    )
    return project


def run(project: Project, code: str) -> str:
    """Run code in a process of the project's, and return what it prints."""
    done = project.run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def states(project: Project) -> dict[str, int]:
    """Return how many results there are in Django's database, by state."""
    with closing(sqlite3.connect(project.folder / DATABASE)) as database:
        query = "SELECT status, count(*) FROM django_celery_results_taskresult GROUP BY status"
        return dict(database.execute(query).fetchall())


def connections(project: Project, publisher: int) -> int:
    """Return how many connections to the database the project's processes have open, except the publisher."""
    found = [path for path in Path("/proc").glob("[0-9]*") if path.name != str(publisher)]
    return sum(
        str(file) == str(project.folder / DATABASE) for path in found for file in _open_files(path, project)
    )


def _open_files(process: Path, project: Project) -> list[Path]:
    try:
        if (process / "cwd").readlink() != project.folder:
            return []
        return [link.readlink() for link in (process / "fd").iterdir()]
    except OSError:  # it has ended
        return []


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_keeps_no_connection_to_the_database(shop: Project, pool: str) -> None:
    """Each task has its result in Django's database; at most one connection per slot is open, and none at rest."""
    with closing(sqlite3.connect(shop.folder / DATABASE)) as database, database:
        database.execute("DELETE FROM django_celery_results_taskresult")
    with shop.worker("shop", pool=pool) as log:
        most = 0
        with shop.popen(sys.executable, "-c", SETUP + PUBLISH) as publisher:

            def have_ended() -> bool:
                nonlocal most
                most = max(most, connections(shop, publisher.pid))
                return states(shop) == ENDED

            wait_until(have_ended, SECONDS, f"the results: {log}")
            wait_until(lambda: connections(shop, publisher.pid) == 0, SECONDS, "the connections to be closed")
    assert 0 < most <= SLOTS


def test_tasks_are_published_after_the_commit(shop: Project) -> None:
    """On commit in order, after a roll-back never; shared tasks belong to the project's app in all threads."""
    found: dict[str, Any] = json.loads(run(shop, SETUP + COMMIT))
    assert found == {
        "before the commit": [],
        "after the commit": [["orders.tasks.hold", "default"], ["orders.tasks.look", "lopri"]],
        "after a roll-back": 2,
        "app": "shop",
        "of the view": ["default", "lopri"],
        "timezone": "Europe/Berlin",
    }
