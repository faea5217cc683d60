"""Flower shows and controls workers through its HTTP API: docs/how-to/flower.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import lean_celery
import pytest
from apps import depth
from celery.exceptions import TaskRevokedError
from configured import failure
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers import Management
    from projects import Project

    from broker_app import BrokerApp

SHOP = """
from broker_app import BrokerApp

app = BrokerApp("shop")


@app.task
def report(day):
    return f"report of {day}"


@app.task
def fail():
    raise ValueError("no such day")
"""
SECONDS = 60.0
pytestmark = pytest.mark.timeout(240)
LOGIN = ("ops", "secret")


class Flower:
    """Flower's HTTP API, and the one worker that it knows.

    Args:
        url: Where Flower is.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, auth=LOGIN, timeout=60.0, trust_env=False)
        self.worker = wait_until(lambda: next(iter(self.get("workers?refresh=1")), ""), SECONDS, "Flower's worker")

    def get(self, path: str) -> Any:
        """Return what the API tells."""
        return self._http.get(f"/api/{path}").raise_for_status().json()

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Ask the API for something."""
        return self._http.post(f"/api/{path}", **options)

    def command(self, path: str, **form: str) -> None:
        """Give a command until it succeeds; Flower gives a worker one second to answer."""
        wait_until(lambda: self.post(path, data=form).is_success, SECONDS, f"Flower to do {path} {form}")

    def task(self, task_id: str, state: str) -> dict[str, Any]:
        """Return what Flower knows of a task once it is in a state."""

        def info() -> dict[str, Any] | None:
            answer = self._http.get(f"/api/task/info/{task_id}")
            found: dict[str, Any] = answer.json() if answer.is_success else {}
            return found if found.get("state") == state else None

        return wait_until(info, SECONDS, f"Flower to know that {task_id} is {state}")

    def metrics(self) -> str:
        """Return what Flower tells Prometheus."""
        return self._http.get("/metrics").raise_for_status().text


@pytest.fixture(scope="module")
def whole_celery() -> Iterator[None]:
    """Start Celery with its plug-ins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(lean_celery.VARIABLE)
        yield


@pytest.fixture(scope="module")
def flower(whole_celery: None, project: Project, management: Management) -> Iterator[Flower]:
    """Run a worker of `default`, and Flower."""
    del whole_celery
    project.put("shop.py", SHOP)
    api = f"{management.url}/api/"  # without a user it is the broker's
    options = ("--address=127.0.0.1", "--port=0", f"--basic-auth={':'.join(LOGIN)}", f"--broker-api={api}")
    with (
        project.worker("shop", "-E", queues="default"),
        project.running("flower", "celery", "-A", "shop", "flower", *options, ready="Connected to") as log,
    ):
        found = re.search(r"Visit me at (\S+)", log.read_text(encoding="utf-8"))
        assert found
        yield Flower(found.group(1))


def test_states_are_shown(flower: Flower, client: BrokerApp) -> None:
    """A task that ran, one that was delayed by the broker and one that failed are shown as such."""
    done = client.send_task("shop.report", ["monday"])
    later = client.send_task("shop.report", ["friday"], countdown=1.5)
    failed = client.send_task("shop.fail")

    assert flower.task(done.id, "SUCCESS")["result"] == "'report of monday'"
    assert flower.task(failed.id, "FAILURE")["exception"] == "ValueError('no such day')"
    assert flower.task(later.id, "SUCCESS")["worker"] == flower.worker


def test_queues_are_shown(flower: Flower) -> None:
    """The queues of the workers are shown as the management API knows them."""
    (queue,) = flower.get("queues/length")["active_queues"]

    assert (queue["name"], queue["type"]) == ("default", "quorum")


def test_metrics_count_tasks(flower: Flower, client: BrokerApp) -> None:
    """Flower's exporter counts what a worker did, by task."""
    task_id = client.send_task("shop.report", ["today"]).id
    flower.task(task_id, "SUCCESS")

    of_worker = f'worker="{flower.worker}"'
    assert f'flower_events_total{{task="shop.report",type="task-succeeded",{of_worker}}}' in flower.metrics()
    assert f"flower_worker_online{{{of_worker}}} 1.0" in flower.metrics()


def test_delayed_task_is_revoked(flower: Flower, client: BrokerApp) -> None:
    """A task that waits in the broker, where no worker knows it, does not run after Flower revoked it."""
    result = client.send_task("shop.report", ["never"], countdown=2)

    flower.command(f"task/revoke/{result.id}")

    assert isinstance(failure(result), TaskRevokedError)
    assert flower.task(result.id, "REVOKED")["worker"] == flower.worker


def test_rate_limit_is_kept(flower: Flower, client: BrokerApp) -> None:
    """With a limit of one task in two seconds the second of two waits for it."""
    flower.command("task/rate-limit/shop.report", workername=flower.worker, ratelimit="30/m")
    ids = [client.send_task("shop.report", [day]).id for day in ("monday", "tuesday")]
    one, other = (float(flower.task(task_id, "SUCCESS")["started"]) for task_id in ids)

    assert abs(other - one) > 1.5
    flower.command("task/rate-limit/shop.report", workername=flower.worker, ratelimit="0")


def test_declared_queue_is_consumed_for_a_while(flower: Flower, client: BrokerApp) -> None:
    """A worker consumes another queue of the settings from "add consumer" to "cancel consumer"."""
    flower.command(f"worker/queue/add-consumer/{flower.worker}", queue="lopri")
    assert client.send_task("shop.report", ["sunday"], queue="lopri").get(timeout=SECONDS) == "report of sunday"

    flower.command(f"worker/queue/cancel-consumer/{flower.worker}", queue="lopri")
    wait_until(
        lambda: len(flower.get("workers?refresh=1")[flower.worker]["active_queues"]) == 1, SECONDS, "its end"
    )
    client.send_task("shop.report", ["sunday"], queue="lopri")
    assert depth(client, "lopri") == 1


def test_task_applied_in_flower_is_routed(flower: Flower) -> None:
    """A task goes to the queue that Flower's user names; a queue that does not exist is an error there."""
    call = {"args": ["monday"], "queue": "default"}
    done = flower.post("task/apply/shop.report", json=call)
    assert done.json()["result"] == "report of monday"

    assert flower.post("task/async-apply/shop.report", json=dict(call, queue="lopry")).is_server_error
    assert flower.get("workers")


def test_undeclared_queue_is_refused(flower: Flower, client: BrokerApp) -> None:
    """The worker refuses to consume a queue that the settings do not have, with the reason, and goes on."""
    path = f"worker/queue/add-consumer/{flower.worker}"
    refusal = wait_until(lambda: "lopry" in flower.post(path, data={"queue": "lopry"}).text, SECONDS, "a refusal")

    assert refusal
    assert client.send_task("shop.report", ["monday"]).get(timeout=SECONDS) == "report of monday"
