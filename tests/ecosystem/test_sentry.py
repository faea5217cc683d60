"""Sentry's SDK reports failed tasks, and the worker settles them as without it: docs/how-to/sentry.md."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from apps import delete, take
from documents import ROOT, blocks
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projects import Project

    from broker_app import BrokerApp

TRANSPORT = '''
import json
from pathlib import Path
from sentry_sdk.transport import Transport

class ToFile(Transport):
    """Writes what Sentry would get."""

    def capture_envelope(self, envelope):
        with Path("sentry.jsonl").open("a") as file:
            for item in envelope.items:
                file.write(json.dumps({"kind": item.type, **(item.payload.json or {})}, default=str) + "\\n")
'''

BEAT = """
from celery.schedules import crontab
from datetime import datetime, timezone

app.conf.beat_schedule = {
    task: {
        "task": f"shop.tasks.{task}", "args": (2, 2), "options": {"queue": "lopri"},
        "schedule": crontab(minute=0, hour=0, day_of_month=1, month_of_year=1),  # not again in this hour
        "last_run_at": datetime(2020, 1, 1, tzinfo=timezone.utc),  # so it is due, once
    }
    for task in ("add", "fail")
}
"""

TASKS = """
from shop import app


@app.task
def add(x, y):
    return x + y


@app.task
def fail(*args):
    raise ValueError("no such day")


@app.task(bind=True)
def fail_after_retries(self):
    raise self.retry(exc=ValueError("still not"), countdown=0.1, max_retries=2)


@app.task
def publish(name, times):
    return [app.tasks[f"shop.tasks.{name}"].apply_async(queue="lopri").id for _ in range(times)]


@app.task
def trace():
    import sentry_sdk
    child = trace_of_child.apply_async(queue="lopri")
    return child.id, sentry_sdk.get_traceparent().split("-")[0]


@app.task
def trace_of_child():
    import sentry_sdk
    return sentry_sdk.get_traceparent().split("-")[0]
"""

SECONDS = 60.0
pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Watched:
    """A worker with Sentry's SDK.

    Attributes:
        project: Where it runs.
        client: Publishes to it.
        is_monitoring: Whether entries of beat are monitored.
        is_tracing: Whether a call's trace goes with its task.
    """

    project: Project
    client: BrokerApp
    is_monitoring: bool
    is_tracing: bool

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """Return what Sentry got of a kind."""
        lines = (self.project.folder / "sentry.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return [item for item in map(json.loads, lines) if item["kind"] == kind]

    def reports(self) -> Counter[str]:
        """Return how often each task was reported, by its id."""
        return Counter(event["tags"]["celery_task_id"] for event in self.sent("event"))

    def run(self, task: str, *args: Any) -> Any:
        """Return the result of a task."""
        return self.client.send_task(f"shop.tasks.{task}", args, queue="lopri").get(timeout=SECONDS)

    def buried(self, ids: list[str]) -> Counter[str]:
        """Wait until these tasks are dead letters, and return how often each of them is there."""
        found: Counter[str] = Counter()

        def are_there() -> bool:
            found.update(str(message.headers["id"]) for message in take(self.client, "lopri.dead"))
            return set(ids) <= set(found)

        wait_until(are_there, SECONDS, f"the dead letters of {ids}")
        return Counter({task_id: found[task_id] for task_id in ids})


@pytest.fixture(
    scope="module",
    params=[("threads", True, True), ("gevent", True, True), ("prefork", False, True), ("threads", False, False)],
    ids=["threads", "gevent", "prefork-unmonitored", "threads-neither"],
)
def watched(project: Project, client: BrokerApp, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """Run beat and a worker of the document's app."""
    pool, is_monitoring, is_tracing = request.param
    (block,) = blocks(ROOT / "docs" / "how-to" / "sentry.md", "python")
    flags = f"monitor_beat_tasks={is_monitoring}, propagate_traces={is_tracing}"
    init = block.text.replace("monitor_beat_tasks=True", flags).replace("rate=0.1", "rate=1.0, transport=ToFile")
    project.put("shop/__init__.py", TRANSPORT + init + BEAT)
    project.put("shop/tasks.py", TASKS)
    (project.folder / "sentry.jsonl").write_text("")
    for file in project.folder.glob("celerybeat*"):
        file.unlink()
    with (
        project.running("beat", "celery", "-A", "shop", "beat", "-l", "INFO", ready="Starting"),
        project.worker("shop", pool=pool),
    ):
        yield Watched(project, client, is_monitoring=is_monitoring, is_tracing=is_tracing)
    delete(client, "lopri", "lopri.dead")


@pytest.mark.parametrize("task", ["fail", "fail_after_retries"])
def test_failed_task_is_reported_and_buried_once(watched: Watched, task: str) -> None:
    """More failures than slots, also after retries: each is reported once, is dead once, and frees its slot."""
    ids = watched.run("publish", task, 4)

    assert set(watched.buried(ids).values()) == {1}
    assert watched.run("add", 2, 2) == 4
    reports = watched.reports()
    assert {task_id: reports[task_id] for task_id in ids} == dict.fromkeys(ids, 1)


def test_task_belongs_to_the_trace_of_its_call(watched: Watched) -> None:
    """A task that another task publishes has its trace, unless propagation is off."""
    child, trace = watched.run("trace")

    of_child = watched.client.AsyncResult(child).get(timeout=SECONDS)
    assert (of_child == trace) == watched.is_tracing


def test_entries_of_beat_are_monitored(watched: Watched) -> None:
    """Each run of an entry is a check-in, in progress and then ok or error, if entries are monitored."""

    def failed() -> list[str]:
        return [event["extra"]["celery-job"]["task_name"] for event in watched.sent("event")]

    wait_until(lambda: "shop.tasks.fail" in failed(), SECONDS, "the report of the entry that fails")
    if not watched.is_monitoring:
        assert not watched.sent("check_in")
        return

    def statuses() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for check_in in watched.sent("check_in"):
            found.setdefault(check_in["monitor_slug"], []).append(check_in["status"])
        return found

    expected = {"add": ["in_progress", "ok"], "fail": ["in_progress", "error"]}
    wait_until(lambda: statuses() == expected, SECONDS, f"the check-ins {expected}")
