"""The body of a task, and what a worker puts around it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker_app.celery_integration.task_body import run_body, surround

if TYPE_CHECKING:
    from collections.abc import Callable


def limited(body: Callable[[], str]) -> str:
    """Run a body, and show that it ran in here."""
    return f"limited {body()}"


def test_the_next_body_of_the_thread_is_surrounded_and_no_other() -> None:
    """Neither a task that it calls directly, nor the next one, nor one of another thread."""
    surround(limited)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(run_body, lambda: "elsewhere").result() == "elsewhere"
    assert run_body(lambda: run_body(lambda: "inner")) == "limited inner"
    assert run_body(lambda: "next") == "next"
