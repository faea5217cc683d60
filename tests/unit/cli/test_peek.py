"""What `queues peek` shows of a dead letter."""

from __future__ import annotations

from traceback import format_exception_only

import pytest

from broker_app.cli.queues_messages import _why
from broker_app.errors import Undecodable
from broker_app.messages import MessageSummary


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Undecodable("shop.add", "id-1", "default", "no such encoding"), "undecodable: no such encoding"),
        (ValueError("task a [b] from queue c: d"), "undecodable: ValueError: task a [b] from queue c: d"),
    ],
)
def test_task_and_id_are_shown_once(error: Exception, expected: str) -> None:
    """The last column leaves out the task and the id that our own exceptions name; other texts stay whole."""
    exception = format_exception_only(error)[0].strip()
    message = MessageSummary("id-1", "shop.add", "", "", 0, None, "undecodable", exception, "", "", False)  # noqa: FBT003
    assert _why(message).startswith(expected)
