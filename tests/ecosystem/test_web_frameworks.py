"""Requests and coroutines publish and wait: docs/how-to/web-frameworks.md and docs/how-to/asyncio.md."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projects import Project

FASTAPI = """
from fastapi.testclient import TestClient
from shop.api import api, total

@api.post("/threads")
def order_in_a_thread(prices: list[int]) -> dict[str, str]:
    return {"id": total.apply_async([prices]).id}

client = TestClient(api)
"""

FLASK = """
from shop.web import web
client = web.test_client()
"""

CALL = """
import json, sys
from shop import app

path, wait = sys.argv[1:]
answer = client.post(path, json=[1, 2, 3])
body = answer.json() if callable(answer.json) else answer.json
told = {"status": answer.status_code, "body": body}
if wait == "wait":
    app.AsyncResult(body["id"]).get(timeout=60)
    answer = client.get(f"/totals/{body['id']}")
    told["look"] = answer.json() if callable(answer.json) else answer.json
print(json.dumps(told))
"""

WAIT = """
import json

body = client.post("/totals", json=[1, 2, 3]).json()
answer = client.get(f"/totals/{body['id']}/wait")
print(json.dumps({"status": answer.status_code, "body": answer.json()}))
"""

COROUTINES = """
import asyncio, json, sys
from shop.charging import charge
from shop.orders import publish

asyncio.run(publish(["a", "bb"]))
print(json.dumps(asyncio.run(charge("order-1", [1, 2])).id))
"""

UNREACHABLE = """
import os
os.environ["BROKER_APP_BROKER_URL"] = "amqp://127.0.0.1:1//"
os.environ["BROKER_APP_PUBLISH__TIMEOUT_SECONDS"] = "1"
"""
FRAMEWORKS = {"fastapi": FASTAPI, "flask": FLASK}
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def shop(project: Project) -> Iterator[Project]:
    """Return the project of the two documents, with a worker."""
    project.put_document("web-frameworks.md")
    project.put_document("asyncio.md")  # its tasks include those of the other
    with project.worker("shop"):
        yield project


def told(project: Project, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of the project, and return what it tells."""
    done = project.run(sys.executable, "-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("framework", "path", "status"),
    [("fastapi", "/totals", 202), ("fastapi", "/threads", 200), ("flask", "/totals", 202)],
)
def test_request_publishes_a_task(shop: Project, framework: str, path: str, status: int) -> None:
    """A request answers with the id of a task that a worker then runs, and another one with its result."""
    answer = told(shop, FRAMEWORKS[framework] + CALL, path, "wait")

    assert answer["status"] == status
    assert answer["look"] == {"state": "SUCCESS", "total": 6}


def test_request_waits_for_a_result(shop: Project) -> None:
    """An endpoint in the event loop answers with the result once a worker has stored it."""
    assert told(shop, FASTAPI + WAIT) == {"status": 200, "body": {"total": 6}}


def test_coroutine_publishes_and_waits(shop: Project) -> None:
    """The coroutines of the document print their tasks' results."""
    done = shop.run(sys.executable, "-c", COROUTINES)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["6", "3", str([n + n for n in range(10)]), '"order-1"']


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_request_says_that_the_broker_is_away(shop: Project, framework: str) -> None:
    """Without a broker the request is answered with 503 once the call's time is over."""
    answer = told(shop, UNREACHABLE + FRAMEWORKS[framework] + CALL, "/totals", "once")

    assert answer["status"] == 503
    assert "try again later" in json.dumps(answer["body"])
