"""Tasks that raise what is no Exception, and handlers that harm, for workers with ``-A workload -I escaping``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, NoReturn

from celery.exceptions import Reject
from celery.signals import before_task_publish, task_failure, task_postrun, task_prerun, task_received
from workload import app

HARM = "harm"
"""The header that names where a handler raises."""


class Own(BaseException):
    """No Exception."""


ERRORS: dict[str, BaseException] = {
    "own": Own("x"),
    "cancelled": asyncio.CancelledError("x"),
    "interrupt": KeyboardInterrupt("x"),
    "generator": GeneratorExit("x"),
    "memory": MemoryError("x"),
}


@app.task
def escape(name: str) -> None:
    """Raise it."""
    if name == "exit":
        sys.exit(3)
    raise ERRORS[name]


class Harming(app.Task):  # type: ignore[name-defined]  # Celery makes the class
    """A task whose own handlers raise."""

    def on_failure(self, *_: Any) -> NoReturn:
        """Raise what is no Exception."""
        raise Own("on_failure")

    def on_success(self, *_: Any) -> NoReturn:
        """Give the message up."""
        raise Reject("on_success", requeue=False)


@app.task(base=Harming)
def harm(*, fails: bool) -> None:
    """Fail, or not."""
    if fails:
        raise ValueError("fails")


@app.task
def fail_with_headers() -> None:
    """Fail; a handler writes into its request."""
    raise ValueError("fails")


def _raise_where_asked(where: str, request: Any) -> None:
    if request is not None and (request.get(HARM) if hasattr(request, "get") else None) == where:
        raise Own(where)


@task_failure.connect(weak=False)
def write_into_headers(sender: Any, **_: Any) -> None:
    """Do as error trackers do, and worse."""
    if sender.name == fail_with_headers.name:
        headers = sender.request.headers or {}
        headers.update(sender.request.properties or {})
    _raise_where_asked("task_failure", sender.request)


@task_prerun.connect(weak=False)
def harm_before(task: Any, **_: Any) -> None:
    """Raise where it is asked to."""
    _raise_where_asked("task_prerun", task.request)


@task_postrun.connect(weak=False)
def harm_behind(task: Any, **_: Any) -> None:
    """Raise where it is asked to."""
    _raise_where_asked("task_postrun", task.request)


@task_received.connect(weak=False)
def harm_received(request: Any, **_: Any) -> None:
    """Raise where it is asked to."""
    _raise_where_asked("task_received", request.request_dict)


@before_task_publish.connect(weak=False)
def harm_published(headers: Any, **_: Any) -> None:
    """Raise where it is asked to: an errback, say, cannot be published."""
    _raise_where_asked("before_task_publish", headers if headers.get("parent_id") else None)
