"""Fixtures of the tests of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def app(tmp_path: Path) -> Iterator[BrokerApp]:
    """Return an app with results in SQLite."""
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path / 'state'}'\n", encoding="utf-8")
    app = BrokerApp("tests", config=file, set_as_current=False)
    yield app
    app.close()
