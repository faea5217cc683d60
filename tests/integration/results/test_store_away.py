"""Tasks and their results while the result store is not writable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import TWO_QUEUES, depth
from celery import chain, chord, group, states
from ledger import Ledger, ledger
from ports import free_port
from redis_server import NEEDS_REDIS, redis_server
from waiting import wait_until

from broker_app import messages
from broker_app.errors import ResultStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import AppMaker

SECONDS = 120.0
NO_STORE = 'result_url = "db+sqlite:////proc/none/results.sqlite3"'
"""No folder can be made there."""


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project without a result store that works."""
    with ledger(tmp_path, fresh_vhost_url, f"{NO_STORE}\n[queues.default]\n") as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_tasks_run_and_nothing_is_lost(shop: Ledger, pool: str) -> None:
    """Each runs once and is done; one that fails is a dead letter with its own error.

    An expired task, and a cancelled one, end no worker. A worker that ends says whose results it could not store.
    """
    app = shop.app()
    app.send_task("shop.note", expires=-1)
    cancelled = app.send_task("shop.note")
    app.control.revoke(cancelled.id)
    broken = app.send_task("shop.nap", ("no number",))
    unwanted = app.send_task("shop.note", ignore_result=True)
    wanted = app.send_task("shop.note")
    with shop.worker("-P", pool, "-c", "2") as worker:
        wait_until(lambda: {wanted.id, unwanted.id} <= shop.runs().keys(), SECONDS, "both to run")
        wait_until(lambda: depth(app, "default.dead") == 1, SECONDS, "the dead letter")
        assert worker.process.poll() is None, worker.text()
        worker.stop()
        assert f"{wanted.id} (result)" in worker.text()
    assert {one: len(found) for one, found in shop.runs().items()} == {wanted.id: 1, unwanted.id: 1}
    assert depth(app, "default") == 0
    (dead,) = messages.peek(app, "default.dead", 10).letters
    assert (dead.id, dead.reason) == (broken.id, "failed")
    assert "TypeError" in (dead.exception or "")  # its own error, not that of the store


NO_REDIS = 'result_url = "redis://127.0.0.1:1/0"\n'


@pytest.mark.parametrize("store", [NO_REDIS, NO_STORE, 'result_url = "db+postgresql+psycopg://127.0.0.1:1/none"'])
def test_calls_are_published_without_a_store(make_app: AppMaker, store: str) -> None:
    """Singly, delayed, in chains, in groups, and by `publish_many`: no call asks the result store."""
    app = make_app(f"{store}\n{TWO_QUEUES}")
    add = app.signature("shop.add", (1, 2))
    app.send_task("shop.add")
    add.apply_async(countdown=3_600)
    chain(add, add, app=app).apply_async()
    group([add, add], app=app).apply_async()
    app.publish_many([add, add]).run()
    assert depth(app, "default") == 6
    assert depth(app, "delay.1h") == 1


@pytest.mark.parametrize("store", [NO_REDIS, NO_STORE])
def test_a_chord_that_cannot_be_counted_publishes_nothing(make_app: AppMaker, store: str) -> None:
    """The store counts a chord's members: without it they could run, and the body never would."""
    app = make_app(f"{store}\n{TWO_QUEUES}")
    add = app.signature("shop.add", (1, 2))
    with pytest.raises(ResultStoreError, match="nothing was published"):
        chord([add, add], app=app)(add)
    assert depth(app, "default") is None


@pytest.mark.timeout(300)
@NEEDS_REDIS
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_ended_while_the_store_was_away_is_told_later(
    tmp_path: Path, fresh_vhost_url: str, pool: str
) -> None:
    """A success, a failure and the last member of a chord, as soon as the store is back."""
    port = free_port()
    settings = f'result_url = "redis://127.0.0.1:{port}/0"\n[queues.default]\n'
    with ledger(tmp_path, fresh_vhost_url, settings) as shop, shop.worker("-P", pool, "-c", "3"):
        app = shop.app()
        with redis_server(tmp_path, port):
            grouped = group([app.signature("shop.note")] * 3, app=app).apply_async()
            assert grouped.get(timeout=SECONDS) == [None] * 3
            body = app.signature("shop.note", immutable=True)
            whole = chord([app.signature("shop.note")] * 2, app=app)(body)
            assert whole.get(timeout=SECONDS) is None
            slow = app.send_task("shop.nap", (3,))
            late = chord([app.signature("shop.nap", (3,)), app.signature("shop.note")], app=app)(body)
            wait_until(lambda: len(shop.runs("begin")) == 2, SECONDS, "both to begin")
        wait_until(lambda: len(shop.runs("end")) == 2, SECONDS, "both to end")
        failed = app.send_task("shop.nap", ("no number",))
        wait_until(lambda: depth(app, "default.dead"), SECONDS, "the failure")
        with redis_server(tmp_path, port):
            wait_until(lambda: app.AsyncResult(slow.id).state == states.SUCCESS, SECONDS, "the success")
            wait_until(lambda: app.AsyncResult(failed.id).state == states.FAILURE, SECONDS, "the failure's state")
            wait_until(lambda: app.AsyncResult(late.id).state == states.SUCCESS, SECONDS, "the chord's body")
            assert app.send_task("shop.note").get(timeout=SECONDS) is None
