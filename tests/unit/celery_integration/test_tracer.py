"""A task gets a result whatever goes wrong around its body."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from celery.exceptions import Reject, WorkerShutdown

from broker_app import BrokerApp
from broker_app.celery_integration.tracer import let_answer
from broker_app.errors import OutOfMemory, UncaughtBaseException

if TYPE_CHECKING:
    from pathlib import Path


def broken_task(folder: Path, error: BaseException) -> Any:
    """Return a task whose tracer lets an exception through, as Celery's does when it cannot tell a failure."""
    app = BrokerApp("answering", set_as_current=False)
    app.conf.result_backend = f"db+sqlite:///{folder}/results.sqlite3"

    @app.task
    def work() -> None:
        """Do nothing."""

    def trace(*_: Any) -> NoReturn:
        raise error

    work.__trace__ = trace
    let_answer([work])
    return work


def test_an_error_of_the_tracer_is_a_failure(tmp_path: Path) -> None:
    """Threads and greenlets would drop it, and the message would stay in the worker for ever."""
    task = broken_task(tmp_path, ConnectionError("the store is away"))
    with warnings.catch_warnings(record=True):
        answer, info, _, _ = task.__trace__("id", (), {}, {})
    assert info.state == "FAILURE"
    assert str(info.retval) == "the store is away"
    assert isinstance(answer.exception, Exception)


def test_celerys_own_ways_stay(tmp_path: Path) -> None:
    """A task that rejects its message does so."""
    with pytest.raises(Reject):
        broken_task(tmp_path, Reject("no")).__trace__("id", (), {}, {})


@pytest.mark.parametrize(
    ("error", "cls"), [(SystemExit(3), UncaughtBaseException), (MemoryError("no more"), OutOfMemory)]
)
def test_what_is_no_error_for_celery_is_a_failure(
    tmp_path: Path, error: BaseException, cls: type[Exception]
) -> None:
    """Raised outside the body, it fails the task with an error that a caller can catch, and its result says so."""
    task = broken_task(tmp_path, error)
    answer, info, _, _ = task.__trace__("id", (), {}, {"id": "id"})
    assert info.state == "FAILURE"
    assert isinstance(answer.exception, cls)
    assert task.AsyncResult("id").state == "FAILURE"


def test_the_end_of_the_worker_is_no_failure(tmp_path: Path) -> None:
    """By WorkerShutdown Celery ends a worker, wherever it is raised."""
    with pytest.raises(WorkerShutdown):
        broken_task(tmp_path, WorkerShutdown(0)).__trace__("id", (), {}, {})
