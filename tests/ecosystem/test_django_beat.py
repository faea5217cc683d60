"""django-celery-beat with django-celery-results: a periodic task reaches its queue (docs/how-to/django.md)."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from apps import depth
from django_shop import DATABASE, put_shop
from waiting import wait_until

if TYPE_CHECKING:
    from projects import Project

    from broker_app import BrokerApp

SECONDS = 60.0
SCHEDULE = """
import django
import shop
django.setup()
from django.core.management import call_command
call_command("migrate", run_syncdb=True)
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from orders.models import Order
order = Order.objects.create(state="new")
every = IntervalSchedule.objects.create(every=1, period="seconds")
entry = {"task": "orders.tasks.ship", "args": f"[{order.pk}]", "interval": every}
PeriodicTask.objects.create(name="night", queue="lopri", **entry)
PeriodicTask.objects.create(name="typo", queue="lopry", **entry)
"""


@pytest.fixture(scope="module")
def shop(project: Project) -> Project:
    """Return the document's project with two periodic tasks in its database; one names an unknown queue."""
    put_shop(project, apps="django_celery_beat")
    done = project.run(sys.executable, "-c", SCHEDULE)
    assert done.returncode == 0, done.stderr
    return project


def results(project: Project) -> list[tuple[str, str]]:
    """Return the state and the periodic task's name of each result in Django's database."""
    with closing(sqlite3.connect(project.folder / DATABASE)) as database:
        query = "SELECT status, periodic_task_name FROM django_celery_results_taskresult"
        return list(database.execute(query))


def test_a_periodic_task_goes_to_its_queue(shop: Project, client: BrokerApp) -> None:
    """It is published to `lopri` and runs, and its result names it; an entry with an unknown queue is logged."""
    command = ("celery", "-A", "shop", "beat", "-l", "INFO")
    scheduler = ("--scheduler", "django_celery_beat.schedulers:DatabaseScheduler", "--max-interval", "1")
    with shop.running("beat", *command, *scheduler, ready="Starting") as log:
        wait_until(lambda: depth(client, "lopri"), SECONDS, "a periodic task")
        wait_until(lambda: "did you mean 'lopri'?" in log.read_text(encoding="utf-8"), SECONDS, "the refusal")
        assert "Traceback" not in log.read_text(encoding="utf-8")
    assert not depth(client, "default")
    with shop.worker("shop"):
        wait_until(lambda: ("SUCCESS", "night") in results(shop), SECONDS, "its result")
    assert not depth(client, "lopri.dead")
