"""Fixtures of the tests that talk to a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alarms
import pytest
from apps import AppMaker, app_maker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.embedded import FoundBroker


@pytest.fixture
def make_app(tmp_path: Path, fresh_vhost_url: str) -> Iterator[AppMaker]:
    """Return what makes apps on a virtual host that the test has for itself."""
    with app_maker(tmp_path, fresh_vhost_url) as maker:
        yield maker


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app with the queues `default` and `lopri`, neither declared yet."""
    return make_app()


@pytest.fixture
def memory_alarm(management: Management, broker: FoundBroker) -> Callable[[], AbstractContextManager[None]]:
    """Return what raises a memory alarm for the length of a block."""
    return lambda: alarms.memory_alarm(management, broker.url)
