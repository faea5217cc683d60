"""Every way to define a task: our class is added in front of its base class, or the task is refused."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task, shared_task
from celery.worker import request as celery_request

from broker_app import BrokerApp
from broker_app.celery_integration.task import Task as OurTask
from broker_app.errors import BrokerAppError, UnsupportedTask
from broker_app.worker.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


RAN: Counter[str] = Counter()
"""Counts the runs of coroutines."""


class Base(Task):
    """A class that was written for plain Celery."""

    abstract = True
    backoff = 2
    """Not a `Backoff`: plain Celery gives this attribute no meaning."""


class Work(Base):
    """A class-based task."""

    name = "work"

    def run(self) -> None:
        """Do nothing."""


class Batches(Task):
    """Handles raw messages, as celery-batches does."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:  # noqa: N802 - Celery's name
        """Return the message handler."""
        del task, app, consumer
        return self.apply_buffer

    def apply_buffer(self, message: Any, *_: Any) -> None:
        """Keep a message."""


class Awaiting(Task):
    """Has an async ``__call__``."""

    abstract = True

    async def __call__(self) -> None:
        """Run."""
        RAN["work"] += 1


class Handling(Task):
    """Has an async handler."""

    abstract = True

    async def on_success(self, *_: Any) -> None:
        """Do nothing."""


def work() -> None:
    """Do nothing."""


async def work_later() -> None:
    """Run."""
    RAN["work"] += 1


async def work_bound_later(_: Any) -> None:
    """Run."""
    RAN["work"] += 1


async def work_piecemeal() -> Any:
    """Do nothing."""
    yield


def work_in_parts() -> Iterator[None]:
    """Do nothing."""
    yield


class LaterWork(Task):
    """A class-based task."""

    name = "work"

    async def run(self) -> None:
        """Run."""
        RAN["work"] += 1


class CalledLater:
    """A callable object."""

    __name__: str = "work"
    __qualname__: str

    async def __call__(self) -> None:
        """Run."""
        RAN["work"] += 1


def make(**options: Any) -> BrokerApp:
    """Return an app that is not current."""
    return BrokerApp("registry", set_as_current=False, **options)


def as_app_task() -> Any:
    """Return a task of an app whose ``Task`` was replaced."""
    app = make()
    app.Task = Base
    return app.task(name="work")(work)


def as_shared() -> Any:
    """Return a shared task."""
    shared_task(base=Base, name="work")(work)
    return make().tasks["work"]


def from_elsewhere() -> Any:
    """Return a task of an app that was created with another app's registry."""
    other = Celery("other", set_as_current=False)
    other.task(base=Base, name="work", lazy=False)(work)
    return make(tasks=other.tasks).tasks["work"]


def of_another_app() -> Any:
    """Return a task that another app created."""
    other = Celery("other", set_as_current=False)
    return make().register_task(other.task(base=Base, name="work", lazy=False)(work))


def by_the_registry() -> Any:
    """Return a task that was registered in ``app.tasks``."""
    app = make()
    app.tasks.register(Work())
    return app.tasks["work"]


def by_an_update() -> Any:
    """Return a task that was added with ``app.tasks.update``."""
    app = make()
    app.tasks.update({"work": Work()})
    return app.tasks["work"]


WAYS = {
    "base=": lambda: make().task(base=Base, name="work")(work),
    "task_cls=": lambda: make(task_cls=Base).task(name="work")(work),
    "app.Task": as_app_task,
    "shared_task": as_shared,
    "register_task, a class": lambda: make().register_task(Work),
    "register_task, an instance": lambda: make().register_task(Work()),
    "register_task, another app's": of_another_app,
    "tasks.register": by_the_registry,
    "tasks.update": by_an_update,
    "tasks=": from_elsewhere,
}


@pytest.mark.filterwarnings("ignore::celery.exceptions.DuplicateTaskNameWarning")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_definition_gets_our_class(way: Callable[[], Any]) -> None:
    """It keeps its base class, uses our request class, and belongs to the app that registered it."""
    task = way()
    assert isinstance(task, Base)
    assert isinstance(task, OurTask)
    assert task.Request == OurTask.Request
    assert isinstance(task.app, BrokerApp)
    assert task.__class__.__module__ == __name__


def test_a_request_class_is_kept_as_if_derived_from_ours() -> None:
    """A custom request class is combined with ours; one that derives from ours is used as it is."""
    own = type("Own", (Request,), {})
    foreign = type("Foreign", (celery_request.Request,), {})
    assert make().task(name="work", Request=own)(work).Request is own
    found = make().task(name="work", Request=foreign)(work).Request
    assert found.__mro__[1:3] == (foreign, Request)


COROUTINES = {
    "async def": lambda app: app.task(work_later),
    "with options": lambda app: app.task(bind=True, autoretry_for=(OSError,))(work_bound_later),
    "pydantic": lambda app: app.task(pydantic=True)(work_later),
    "made at once": lambda app: app.task(lazy=False)(work_later),
    "an object": lambda app: app.task(CalledLater()),
    "a class": lambda app: app.register_task(LaterWork()),
    "a class that retries": lambda app: app.register_task(LaterWork(), autoretry_for=(OSError,)),
    "an async __call__": lambda app: app.task(base=Awaiting, lazy=False)(work),
    "shared_task": lambda app: app.tasks[shared_task(name="shared_later")(work_later).name],
}


@pytest.mark.parametrize("way", COROUTINES.values(), ids=COROUTINES)
def test_a_coroutine_function_runs_however_it_is_defined(way: Callable[[BrokerApp], Any]) -> None:
    """Its body runs where Celery runs a task; called directly, it returns its coroutine."""
    task = way(make())
    before = RAN.total()
    task.apply(throw=True)
    assert RAN.total() == before + 1
    coroutine = task()
    assert RAN.total() == before + 1
    coroutine.close()


REFUSED = {
    "async def with a yield": lambda app: app.task(work_piecemeal),
    "a yield": lambda app: app.task(work_in_parts),
    "an async on_success": lambda app: app.task(base=Handling, lazy=False)(work),
    "a strategy": lambda app: app.task(base=Batches, lazy=False)(work),
    "a strategy, register_task": lambda app: app.register_task(type("Own", (Batches, Work), {})),
}


@pytest.mark.parametrize("way", REFUSED.values(), ids=REFUSED)
def test_a_task_that_no_worker_can_run_is_refused(way: Callable[[BrokerApp], Any]) -> None:
    """The error is raised when the task is defined: one line with the place, what was expected, and the cure."""
    with pytest.raises(UnsupportedTask) as caught:
        way(make())
    text = str(caught.value)
    assert "work" in text
    assert ": expected " in text
    assert ", got " in text
    assert "; " in text
    assert "\n" not in text
    assert "test_registry" in text


def test_a_refused_shared_task_is_not_forgotten() -> None:
    """It has no app when it is defined; then each use of an app's tasks raises the error."""
    with suppress(UnsupportedTask):  # an app of another test may still be in use, and refuses it here
        shared_task(name="shared_piecemeal")(work_piecemeal)
    app = make()
    for _ in range(2):
        with pytest.raises(BrokerAppError, match="async def"):
            app.tasks.get("anything")
