"""Whatever a task, a handler or an errback raises, the message is settled, the slot free, and the result told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from apps import depth, take
from configured import configured_client, failure
from waiting import wait_until
from workers import RunningWorker, running_worker

from broker_app.errors import OutOfMemory, UncaughtBaseException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kombu.message import Message

    from broker_app import BrokerApp

SECONDS = 60.0
SLOTS = 2
HARM = "harm"
"""As in `escaping`, which must not be imported here: it connects handlers of signals."""


@pytest.fixture(scope="module", params=["prefork", "threads", "gevent", "solo"])
def worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vhost_url: str
) -> Iterator[tuple[RunningWorker, BrokerApp]]:
    """Run a worker of two slots that the tests share; return it and a client."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    app = configured_client(folder, vhost_url, f"prefix = '{request.param}.'\n[queues.default]\n")
    slots = "1" if request.param == "solo" else str(SLOTS)
    with running_worker(folder, vhost_url, "-I", "escaping", "-P", request.param, "-c", slots) as running:
        yield running, app
    app.close()


@pytest.fixture
def app(worker: tuple[RunningWorker, BrokerApp]) -> Iterator[BrokerApp]:
    """Return a client; after the test the worker lives, holds nothing and has its slots."""
    running, app = worker
    yield app
    sums = [app.send_task("workload.add", (number, 1)) for number in range(2 * SLOTS)]
    assert [one.get(timeout=SECONDS, interval=0.05) for one in sums] == [1, 2, 3, 4]
    assert running.process.poll() is None


def dead_letters(app: BrokerApp, count: int) -> list[Message]:
    """Take so many dead letters, when they are there."""
    queue = f"{app.settings.prefix}default.dead"
    wait_until(lambda: (depth(app, queue) or 0) >= count, SECONDS, f"{count} dead letters")
    return take(app, queue)


def test_what_is_no_exception_fails_the_task(app: BrokerApp) -> None:
    """SystemExit, CancelledError, an own class: FAILURE, with an error that does not end the caller."""
    names = ["exit", "own", "cancelled", "interrupt", "generator", "memory"]
    results = [app.send_task("escaping.escape", (name,)) for name in names]
    errors = [failure(result) for result in results]
    assert [type(error) for error in errors] == [UncaughtBaseException] * 5 + [OutOfMemory]
    assert "SystemExit: 3" in str(errors[0])
    assert {letter.headers["id"] for letter in dead_letters(app, len(names))} == {one.id for one in results}


def test_handlers_of_the_task_itself(app: BrokerApp) -> None:
    """An exception of on_failure or on_success leaves one dead letter: `failed`, or `rejected` after a success."""
    for fails in (True, False):
        app.send_task("escaping.harm", kwargs={"fails": fails})
        (letter,) = dead_letters(app, 1)
        assert letter.headers["broker_app_dead_reason"] == ("failed" if fails else "rejected")


@pytest.mark.parametrize("where", ["task_prerun", "task_received"])
def test_handlers_of_signals_before_it_runs(app: BrokerApp, where: str) -> None:
    """A handler that raises what is no Exception fails the task."""
    results = [app.send_task("workload.add", (1, 1), headers={HARM: where}) for _ in range(SLOTS)]
    dead_letters(app, SLOTS)
    assert {result.state for result in results} == {"FAILURE"}


@pytest.mark.parametrize("where", ["task_failure", "task_postrun", "before_task_publish"])
def test_handlers_of_signals_of_a_failure(app: BrokerApp, where: str) -> None:
    """A failed task whose signal handlers raise, or whose errback cannot be published, is dead-lettered once."""
    link: Any = app.signature("workload.add", (1, 1), headers={HARM: where})
    results = [
        app.send_task("workload.fail", ("x",), headers={HARM: where}, link_error=link) for _ in range(SLOTS)
    ]
    assert len(dead_letters(app, SLOTS)) == SLOTS
    assert {result.state for result in results} == {"FAILURE"}


def test_a_handler_that_writes_into_the_headers(app: BrokerApp) -> None:
    """The dead letter has the headers that the message came with, whatever a handler made of them."""
    sent = [
        app.send_task("escaping.fail_with_headers", headers={"headers": {"trace": str(number)}})
        for number in range(SLOTS)
    ]
    letters = {letter.headers["id"]: letter for letter in dead_letters(app, SLOTS)}
    assert [letters[one.id].headers["headers"] for one in sent] == [{"trace": "0"}, {"trace": "1"}]
    assert {letter.headers["broker_app_dead_reason"] for letter in letters.values()} == {"failed"}
