"""Tasks that are coroutines: every promise holds for them, on each pool that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from billiard.exceptions import TimeLimitExceeded
from configured import configured_client, failure
from waiting import wait_until
from workers import running_worker

from broker_app.errors import UncaughtBaseException
from broker_app.queues.dead_letters import REASON_HEADER, TRACEBACK_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
POOLS = ["prefork", "threads", "solo", "asyncio", "gevent"]


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """Return the worker's pool."""
    return str(request.param)


@pytest.fixture(scope="module")
def app(pool: str, tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client of a worker with these tasks."""
    folder = tmp_path_factory.mktemp(pool)
    client = configured_client(folder, vhost_url, "[queues.default]\n")
    with running_worker(folder, vhost_url, "-I", "coroutine_tasks", "-P", pool, "-c", "4"):
        yield client


def dead_headers(app: BrokerApp) -> dict[str, object]:
    """Wait for the only dead letter, remove it, and return its headers."""
    wait_until(lambda: depth(app, "default.dead"), SECONDS, "the dead letter")
    (message,) = take(app, "default.dead")
    return dict(message.headers)


def test_each_sees_its_own_request(app: BrokerApp) -> None:
    """Many run between each other, and none sees another's id."""
    results = [app.send_task("coroutine_tasks.ids") for _ in range(12)]
    for result in results:
        assert result.get(timeout=SECONDS, interval=0.05) == [result.id] * 3


def test_a_plain_task_may_run_a_loop(app: BrokerApp) -> None:
    """With ``asyncio.run``, while coroutines wait in the worker's loop; it sees no other loop."""
    coroutines = [app.send_task("coroutine_tasks.ids") for _ in range(3)]
    plain = app.send_task("coroutine_tasks.run_by_itself")
    assert plain.get(timeout=SECONDS, interval=0.05) is False
    assert [one.get(timeout=SECONDS, interval=0.05)[0] for one in coroutines] == [one.id for one in coroutines]


def test_it_may_run_another_one(app: BrokerApp) -> None:
    """With ``apply``, in a loop of its own; it goes on in its own loop."""
    result = app.send_task("coroutine_tasks.apply_inside")
    assert result.get(timeout=SECONDS, interval=0.05) == ["open", None]


def test_it_publishes_and_waits(app: BrokerApp, pool: str) -> None:
    """For other tasks of its worker."""
    if pool == "solo":
        pytest.skip("the solo pool runs one task at a time")
    result = app.send_task("coroutine_tasks.publish_inside")
    assert result.get(timeout=SECONDS, interval=0.05) == list(range(1, 11))


def test_it_sees_what_its_lifespan_has_opened(app: BrokerApp) -> None:
    """On each pool."""
    assert app.send_task("coroutine_tasks.state").get(timeout=SECONDS, interval=0.05) == "open"


def test_its_body_runs_without_a_result(app: BrokerApp, tmp_path: Path) -> None:
    """A task whose result is ignored is not a success before its body has run."""
    file = tmp_path / "notes"
    app.send_task("coroutine_tasks.write", (str(file),))
    wait_until(file.exists, SECONDS, "the body to run")


@pytest.mark.parametrize("name", ["retry_by_hand", "retry_itself"])
def test_it_is_retried(app: BrokerApp, name: str) -> None:
    """By its own call, and by ``autoretry_for``."""
    assert app.send_task(f"coroutine_tasks.{name}").get(timeout=SECONDS, interval=0.05) == 1


def test_a_base_exception_is_a_failure(app: BrokerApp) -> None:
    """It becomes a typed error and a dead letter; the loop goes on."""
    assert isinstance(failure(app.send_task("coroutine_tasks.leave")), UncaughtBaseException)
    assert dead_headers(app)[REASON_HEADER] == "failed"


def test_its_soft_limit_is_raised_at_the_await(app: BrokerApp, pool: str) -> None:
    """It can clean up, and returns its result."""
    if pool == "solo":
        pytest.skip("the solo pool has no time limits")
    assert app.send_task("coroutine_tasks.polite").get(timeout=SECONDS, interval=0.05) == "cleaned up"


def test_its_hard_limit_ends_it(app: BrokerApp, pool: str) -> None:
    """It becomes a dead letter that says where the coroutine was."""
    if pool == "solo":
        pytest.skip("the solo pool has no time limits")
    assert isinstance(failure(app.send_task("coroutine_tasks.outlast")), TimeLimitExceeded)
    headers = dead_headers(app)
    assert headers[REASON_HEADER] == "timed_out"
    assert pool == "prefork" or "in outlast" in str(headers[TRACEBACK_HEADER])  # prefork kills the process
