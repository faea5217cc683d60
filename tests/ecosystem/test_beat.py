"""Celery beat publishes to the queues that its schedule names: docs/how-to/beat.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from projects import Project

    from broker_app import BrokerApp

TYPO = """
often = dict(app.conf.beat_schedule["morning report"], schedule=0.5)
app.conf.beat_schedule |= {"report": often, "typo": dict(often, options={"queue": "lopry"})}
"""
SECONDS = 60.0


@pytest.fixture(scope="module")
def shop(project: Project) -> Project:
    """Return the document's project; its report is also due twice a second, and so is an entry with a typo."""
    project.put_document("beat.md")
    with (project.folder / "shop" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(TYPO)
    return project


def refusals(log: Path) -> list[str]:
    """Return the log lines about the refused entry; the log has no traceback."""
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    return [line for line in text.splitlines() if "lopry" in line]


def test_beat_goes_on_when_an_entry_names_an_unknown_queue(shop: Project, client: BrokerApp) -> None:
    """The one entry is refused in one line each time; the other is published to its queue, before and after."""
    with shop.running("beat", "celery", "-A", "shop", "beat", "-l", "INFO", ready="Starting") as log:
        wait_until(lambda: len(refusals(log)) >= 2, SECONDS, "two refusals")
        before = depth(client, "lopri")
        wait_until(lambda: (depth(client, "lopri") or 0) > (before or 0), SECONDS, "another task after them")

    assert all("task typo: queue 'lopry': " in line and "did you mean 'lopri'?" in line for line in refusals(log))
    assert {message.headers["task"] for message in take(client, "lopri")} == {"shop.tasks.report"}
    assert not depth(client, "default")


def test_beat_within_a_worker_does_the_same(shop: Project) -> None:
    """With ``-B`` what is due runs, and the refused entry is a line in the worker's log."""
    with shop.worker("shop", "-B", "--schedule", "embedded") as log:
        wait_until(lambda: len(refusals(log)) >= 2, SECONDS, "two refusals")
        ran = log.read_text(encoding="utf-8").count("succeeded in ")
        wait_until(lambda: log.read_text(encoding="utf-8").count("succeeded in ") > ran, SECONDS, "another run")

    assert all("task typo: queue 'lopry': " in line for line in refusals(log))
