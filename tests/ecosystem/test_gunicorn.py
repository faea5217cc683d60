"""gunicorn's workers publish although their master did before it forked them: docs/how-to/web-frameworks.md."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projects import Project

    from broker_app import BrokerApp

MASTER = """
import os
from broker_app import publish_many

MASTER = os.getpid()
assert total.apply_async([[1, 2]], queue="lopri").get(timeout=60) == 3
assert publish_many([total.s([1])]).run().accepted == 1


@web.get("/process")
def process():
    return {"is_master": os.getpid() == MASTER, "pid": os.getpid()}
"""
SECONDS = 60.0
CALLS = 60
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def url(project: Project) -> Iterator[str]:
    """Run a worker and, with the document's options, gunicorn; its master publishes first."""
    project.put_document("web-frameworks.md")
    with (project.folder / "shop" / "web.py").open("a", encoding="utf-8") as file:
        file.write(MASTER)
    options = (
        "--preload",
        "--workers",
        "2",
        "--worker-class",
        "gthread",
        "--threads",
        "4",
        "--bind",
        "127.0.0.1:0",
    )
    with (
        project.worker("shop"),
        project.running("gunicorn", "gunicorn", *options, "shop.web:web", ready="Listening at") as log,
    ):
        found = re.search(r"Listening at: (\S+)", log.read_text(encoding="utf-8"))
        assert found
        yield found.group(1)


def test_forked_workers_publish_what_they_are_asked(url: str, client: BrokerApp) -> None:
    """Concurrent requests to both workers of a master that has published are all confirmed, and all tasks run."""
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: http.post("/totals", json=[n, n]), range(CALLS)))
        assert {answer.status_code for answer in answers} == {202}
        ids = [answer.json()["id"] for answer in answers]
        totals = [client.AsyncResult(task_id).get(timeout=SECONDS) for task_id in ids]
        assert totals == [2 * n for n in range(CALLS)]
        assert http.get(f"/totals/{ids[-1]}").json() == {"state": "SUCCESS", "total": totals[-1]}
    pids: set[int] = set()

    def have_both_answered() -> bool:
        process = httpx.get(f"{url}/process", timeout=60.0, trust_env=False).json()  # by a connection of its own
        assert not process["is_master"]
        pids.add(process["pid"])
        return len(pids) == 2

    wait_until(have_both_answered, SECONDS, "both workers to answer")
