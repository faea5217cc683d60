"""Workers are killed while they store results: an acknowledged task has its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth
from celery import states
from ledger import ledger
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 120.0
TASKS, KILLS = 800, 3


@pytest.mark.timeout(400)
def test_no_acknowledged_task_is_without_a_result(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Each task is done or still in its queue, whenever the workers were killed."""
    with ledger(tmp_path, fresh_vhost_url, "[queues.default]\n") as shop:
        app = shop.app()
        ids = [f"id-{number}" for number in range(TASKS)]
        app.publish_many(app.signature("shop.note", task_id=one) for one in ids).run()
        worker = ("-P", "threads", "-c", "8", "--without-gossip", "--without-mingle")
        for kill in range(1, KILLS + 1):
            with shop.worker(*worker):  # killed at the end of the block
                wait_until(lambda kill=kill: len(shop.runs()) >= kill * TASKS // 5, SECONDS, "some to run")
        with shop.worker(*worker) as last:
            wait_until(lambda: depth(app, "default") == 0, SECONDS, "an empty queue")
            last.stop()
        assert last.process.returncode == 0
        undone = [one for one in ids if app.AsyncResult(one).state not in states.READY_STATES]
        assert len(undone) == depth(app, "default")  # it had received them, and gave them back when it stopped
