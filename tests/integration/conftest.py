"""Fixtures of the tests that talk to a broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import alarms
import pytest
from apps import USER_PASSWORD, AppMaker, app_maker
from brokers import vhost_of

from broker_app.errors import BrokerNotFound
from broker_app.local_broker.node_config import find_server
from broker_app.results import sql  # noqa: F401 - seconds on a busy machine, which count in the first call that needs it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from apps import MakeUser
    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.local_broker import FoundBroker


@pytest.fixture(scope="session")
def private_server() -> Path:
    """Return RabbitMQ's start script on this machine. Without one its tests are skipped, but not in CI."""
    try:
        return find_server(os.environ.get("PATH", ""))
    except BrokerNotFound as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


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


@pytest.fixture
def make_user(management: Management, fresh_vhost_url: str) -> Iterator[MakeUser]:
    """Return what makes a user with the given rights on the test's virtual host, and returns the user's URL."""
    place, made = urlsplit(fresh_vhost_url), list[str]()

    def make(configure: str = "", write: str = "", read: str = "") -> str:
        name = f"user-{len(made)}-{vhost_of(fresh_vhost_url)}"
        made.append(name)
        management.put(f"users/{name}", {"password": USER_PASSWORD, "tags": ""})
        rights = {"configure": configure, "write": write, "read": read}
        management.put(f"permissions/{vhost_of(fresh_vhost_url)}/{name}", rights)
        return urlunsplit(place._replace(netloc=f"{name}:{USER_PASSWORD}@{place.hostname}:{place.port}"))

    yield make
    for name in made:
        management.delete(f"users/{name}")
