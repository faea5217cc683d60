"""A worker that starts greets the others; alone, it is ready without waiting for replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from workers import client, running_worker

if TYPE_CHECKING:
    from pathlib import Path

    from apps import MakeUser

LONG = 30.0
"""A time-out that this test never reaches."""


@pytest.mark.version
@pytest.mark.timeout(LONG)
def test_a_greeting_that_nobody_hears_is_answered_at_once(tmp_path: Path, make_user: MakeUser) -> None:
    """The broker says that no worker listens, and a starting worker does not wait for the time-out."""
    app = client(tmp_path, make_user(".*", ".*", ".*"))
    for _ in range(2):  # the channel is as good as before
        assert not app.control.inspect(timeout=2 * LONG).hello("new@host")


def test_a_greeting_reaches_running_workers(tmp_path: Path, make_user: MakeUser) -> None:
    """A running worker replies with its state, as in Celery."""
    url = make_user(".*", ".*", ".*")
    app = client(tmp_path, url)
    with running_worker(tmp_path, url, "-Q", "lopri", "-c", "1"):
        replies = app.control.inspect(timeout=LONG, limit=1).hello("new@host", {})
    assert [set(reply) for reply in replies.values()] == [{"revoked", "clock"}]
