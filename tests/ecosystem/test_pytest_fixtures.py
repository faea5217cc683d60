"""Celery's own pytest fixtures with a BrokerApp: docs/how-to/testing.md."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from projects import Project

APP = """
from broker_app import BrokerApp

app = BrokerApp("shop", include=["shop.tasks"])
"""
TASKS = """
from shop import app


@app.task
def report(subject):
    return "report of " + subject
"""
POOL = """

@pytest.fixture(scope="session")
def celery_worker_pool():
    return "{}"
"""


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_of_the_fixtures_runs_the_tasks(project: Project, pool: str) -> None:
    """Per test and per session: results, countdowns and errors arrive, and the worker ends with its fixture."""
    project.put_document("testing.md")
    project.put("shop/__init__.py", APP)
    project.put("shop/tasks.py", TASKS)
    conftest = project.folder / "conftest.py"
    conftest.write_text(conftest.read_text(encoding="utf-8") + POOL.format(pool), encoding="utf-8")
    done = project.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
