"""Task body: runs a task's function inside what its worker puts around it, such as time limits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from celery.exceptions import Ignore

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

_slot = threading.local()


class Replaced(Ignore):
    """Raised in the body of a task that `replace` has replaced."""


def surround(run: Callable[[Callable[[], Any]], Any]) -> None:
    """Run the body of the next task of this thread or greenlet within a function.

    Args:
        run: Called with the body; returns its result.
    """
    _slot.run = run


def run_body(body: Callable[[], Value]) -> Value:
    """Run the body of a task that starts, within the function that `surround` was given for it, if any."""
    run, _slot.run = getattr(_slot, "run", None), None
    value: Value = body() if run is None else run(body)
    return value
