"""Fixtures of the pools' tests."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Leave the test out of a measurement of coverage.

    In Python 3.11, a traced thread does not go on while an error waits to be raised in another one.
    """
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(elsewhere)
    sys.settrace(here)
