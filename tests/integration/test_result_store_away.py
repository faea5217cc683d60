"""What becomes of tasks while the result store cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth
from ledger import Ledger, ledger
from waiting import wait_until

from broker_app import inspection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    """Each runs once; one whose result is wanted is a dead letter that says so; others are done.

    A task that fails is one too, with its own error. An expired task, and a cancelled one, end no worker.
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
        wait_until(lambda: depth(app, "default.dead") == 2, SECONDS, "the dead letters")
        assert worker.process.poll() is None, worker.text()
        worker.stop()
    assert {one: len(found) for one, found in shop.runs().items()} == {wanted.id: 1, unwanted.id: 1}
    assert depth(app, "default") == 0
    dead = {letter.id: letter for letter in inspection.peek(app, "default.dead", 10).letters}
    assert {letter.reason for letter in dead.values()} == {"failed"}
    assert "FileNotFoundError" in (dead[wanted.id].exception or "")
    assert "TypeError" in (dead[broken.id].exception or "")  # its own error, not that of the store
