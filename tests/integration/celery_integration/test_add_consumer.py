"""`add_consumer`, as Flower sends it: queues of the settings are consumed, others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from waiting import wait_until
from workers import client, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apps import MakeUser
    from brokers import Management

RESULT_SECONDS = 120


@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
def test_a_queue_is_added_or_refused_and_a_lost_connection_changes_nothing(
    tmp_path: Path, make_user: MakeUser, management: Management, pool: str
) -> None:
    """The reply says which queues there are; after a lost connection the worker consumes what it did before."""
    url = make_user(".*", ".*", ".*")
    app = client(tmp_path, url)
    with running_worker(tmp_path, url, "-Q", "lopri", "-P", pool, "-c", "1") as worker:
        run = runner(app)
        (refused,) = app.control.add_consumer("lopry", reply=True, timeout=60, limit=1)
        assert "lopry" in str(refused)
        assert "did you mean 'lopri'" in str(refused)
        (added,) = app.control.add_consumer("default", reply=True, timeout=60, limit=1)
        assert "ok" in str(added)
        assert run("default") == 4
        management.close_connections_of(url)
        wait_until(lambda: worker.log.read_text().count("Connected to") >= 2, RESULT_SECONDS, "a new connection")
        assert (run("default"), run("lopri")) == (4, 4)
        assert worker.process.poll() is None
        assert "Unrecoverable" not in worker.log.read_text()


def runner(app: object) -> Callable[[str], object]:
    """Return what runs a task on a queue."""
    return lambda queue: app.send_task("broker_app.tasks.add", (2, 2), queue=queue).get(timeout=RESULT_SECONDS)  # type: ignore[attr-defined]
