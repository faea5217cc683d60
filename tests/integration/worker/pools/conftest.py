"""Fixtures of the pools' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="module")
def unmeasured() -> Iterator[None]:
    """Leave the workers out of a measurement of coverage: see `tests/unit/worker/pools/conftest.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
