"""Coroutine tasks: what Celery wraps around a plain function also works for a coroutine."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from broker_app import BrokerApp


class Number(BaseModel):
    """A model."""

    value: int


async def double(number: Number) -> Number:
    """Return the double."""
    return Number(value=2 * number.value)


async def double_later(self: Any, number: Number) -> Number:
    """Return the double, on the second try."""
    if not self.request.retries:
        raise OSError
    return Number(value=2 * number.value)


@pytest.mark.parametrize(
    ("function", "options"), [(double, {}), (double_later, {"bind": True, "autoretry_for": (OSError,)})]
)
def test_a_pydantic_model_is_read_and_dumped(function: Any, options: dict[str, Any]) -> None:
    """Arguments become models, and a model that the coroutine returns becomes JSON; retries change nothing."""
    app = BrokerApp("models", set_as_current=False)
    task = app.task(pydantic=True, **options)(function)
    assert task.apply(({"value": 2},)).get() == {"value": 4}
