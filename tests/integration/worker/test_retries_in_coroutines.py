"""Coroutines publish their retries and replacements outside the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from apps import take
from celery import states
from celery.app.task import Context
from celery.app.trace import trace_task
from proxy import TcpProxy

from broker_app.coroutines.execution import run_coroutine

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp

SECONDS = 60.0
REQUEST = {"id": "one", "delivery_info": {"routing_key": "default"}, "hostname": "here"}
"""A request without retries."""


def state_of(app: BrokerApp, name: str) -> str:
    """Run a task as a worker does, and return the state that it ends in."""
    task = app.tasks[name]
    info = trace_task(task, "one", (), {}, dict(REQUEST), app=app).info
    return states.SUCCESS if info is None else str(info.state)


def make_tasks(app: BrokerApp) -> threading.Event:
    """Register the tasks; return an event that is set when one is about to publish."""
    publishes = threading.Event()

    @app.task(name="raising", bind=True)
    async def raising(self: Any) -> None:
        """Raise the retry."""
        await asyncio.sleep(0)
        publishes.set()
        raise self.retry(countdown=0)

    @app.task(name="awaiting", bind=True)
    async def awaiting(self: Any) -> None:
        """Await the retry."""
        await asyncio.sleep(0)
        publishes.set()
        await self.retry(countdown=0)

    @app.task(name="replacing", bind=True)
    async def replacing(self: Any) -> Any:
        """Replace itself."""
        await asyncio.sleep(0)
        publishes.set()
        return self.replace(app.tasks["raising"].s())

    @app.task(name="going_on", bind=True)
    async def going_on(self: Any) -> None:
        """Retry, and go on."""
        await asyncio.sleep(0)
        self.retry(countdown=0, throw=False)

    return publishes


@pytest.mark.parametrize(
    ("name", "state", "sent"),
    [
        ("raising", states.RETRY, "raising"),
        ("awaiting", states.RETRY, "awaiting"),
        ("replacing", states.IGNORED, "raising"),
    ],
)
def test_the_loop_turns_while_a_broker_does_not_answer(
    make_app: AppMaker, name: str, state: str, sent: str
) -> None:
    """The task waits for the broker in its slot; it is published once the broker answers again."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app("[publish]\ntimeout_seconds = 60.0\n[queues.default]\n", url=proxy.url(make_app.url))
        publishes = make_tasks(app)
        with ThreadPoolExecutor(1) as pool:
            proxy.freeze()
            try:
                done = pool.submit(state_of, app, name)
                assert publishes.wait(SECONDS)
                run_coroutine(asyncio.sleep(0), app.tasks["raising"], Context(id="two"))
                assert not done.done()
            finally:
                proxy.thaw()
            assert done.result(SECONDS) == state
        (message,) = take(app, "default")
    assert message.headers["task"] == sent
    assert message.headers["retries"] == int(name != "replacing")


def test_a_retry_that_is_not_raised_is_published(make_app: AppMaker) -> None:
    """With ``throw=False``, as in a plain task."""
    app = make_app()
    make_tasks(app)
    assert state_of(app, "going_on") == states.SUCCESS
    (message,) = take(app, "default")
    assert message.headers["retries"] == 1


def test_a_retry_that_cannot_be_published_rejects_its_message(make_app: AppMaker) -> None:
    """As in a plain task; the message becomes a dead letter."""
    app = make_app("[publish]\ntimeout_seconds = 1.0\n[queues.default]\n", url="amqp://127.0.0.1:1//")
    make_tasks(app)
    assert state_of(app, "raising") == states.REJECTED
