"""Tasks with base classes for plain Celery; workers load them with ``-A workload -I base_classes``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import Task, shared_task
from celery.worker.request import Request
from workload import app, note


class Database(Task):
    """Keeps state between runs, like the example in Celery's documentation."""

    abstract = True
    opened = 0

    def database(self) -> str:
        """Return the kept value."""
        self.opened += 1
        return "database"


class Calling(Task):
    """Overrides ``__call__`` and calls Celery's."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run."""
        return super().__call__(*args, **kwargs)


class Running(Task):
    """Overrides ``__call__`` without calling Celery's."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run."""
        return self.run(*args, **kwargs)


class Awaiting(Task):
    """Runs coroutine functions."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run."""
        return asyncio.run(self.run(*args, **kwargs))


class NotingRequest(Request):
    """Handles failures itself, like the example in Celery's documentation."""

    def on_failure(self, *args: Any, **options: Any) -> Any:
        """Note it."""
        note(self.kwargs["file"], "heard")
        return super().on_failure(*args, **options)


class Noting(Task):
    """Has a custom request class."""

    abstract = True
    Request = NotingRequest


@app.task(base=Database, bind=True)
def with_base(self: Any) -> list[Any]:
    """Use the base class."""
    return [self.database(), self.request.id]


@shared_task(base=Calling, bind=True)
def shared(self: Any) -> list[Any]:
    """Run through ``__call__``."""
    return ["shared", self.request.id]


@app.task(base=Running, bind=True)
def direct(self: Any) -> list[Any]:
    """Run through ``__call__``."""
    return ["direct", self.request.id]


@app.task(base=Awaiting, bind=True)
async def awaited(self: Any) -> list[Any]:
    """Run in an event loop."""
    await asyncio.sleep(0)
    return ["awaited", self.request.id]


class Total(Database):
    """A class-based task."""

    name = "base_classes.total"

    def run(self) -> list[Any]:
        """Use the base class."""
        return [self.database(), self.request.id]


app.register_task(Total())


def _fail(file: str) -> None:
    note(file, "run")
    raise ConnectionError("not today")


for _base in (Database, Calling, Running, Noting):
    app.task(base=_base, name=f"base_classes.fail_{_base.__name__.lower()}")(_fail)


def _outlast(seconds: float) -> None:
    for _ in range(int(seconds / 0.05)):
        time.sleep(0.05)


for _base in (Database, Calling, Running):
    app.task(base=_base, name=f"base_classes.outlast_{_base.__name__.lower()}", time_limit=1)(_outlast)


async def _write(file: str) -> None:
    note(file, "ran")


@app.task(ignore_result=True)
def forget_to_await(file: str) -> Any:
    """Return a coroutine."""
    return _write(file)


@app.task
def return_future() -> Any:
    """Return an awaitable that is no coroutine."""
    return asyncio.Future(loop=asyncio.new_event_loop())
