"""A fleet that `celery multi` started, when its broker dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import app_maker
from fleets import Host, host
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mortal import MortalBroker

SETTINGS = """
prefix = "{prefix}."
heartbeat_seconds = 4
[queues.default.fleet]
concurrency = 2
[queues.lopri.fleet]
pool = "prefork"
concurrency = 2
"""
SECONDS = 90


@pytest.fixture
def fleet_host(tmp_path: Path, stormy_broker: MortalBroker) -> Iterator[Host]:
    """Return a host whose fleets use a broker that may be killed."""
    with host(tmp_path / "host", stormy_broker.amqp_url) as made:
        made.write(SETTINGS.format(prefix=tmp_path.name))
        yield made


def consuming(fleet_host: Host) -> set[bool]:
    """Return what `fleet status` says of its nodes: whether they consume."""
    return {node["is_consuming"] for node in fleet_host.status().values()}


@pytest.mark.timeout(400)
def test_it_consumes_again_without_help(tmp_path: Path, fleet_host: Host, stormy_broker: MortalBroker) -> None:
    """`fleet status` tells that no node consumes while the broker is away, and that all do when it is back."""
    fleet_host.start()
    before = fleet_host.workers()
    wait_until(lambda: consuming(fleet_host) == {True}, SECONDS, "every node to be seen")
    stormy_broker.kill()
    try:
        wait_until(lambda: consuming(fleet_host) == {False}, SECONDS, "no node to consume")
    finally:
        stormy_broker.start()
    wait_until(lambda: consuming(fleet_host) == {True}, SECONDS, "every node to consume")
    assert fleet_host.workers() == before
    settings = f'prefix = "{tmp_path.name}."\nresult_url = "db+sqlite:///{fleet_host.state / "results.sqlite3"}"\n'
    with app_maker(tmp_path, stormy_broker.amqp_url) as make_app:
        app = make_app(f"{settings}[queues.default]\n[queues.lopri]\n")
        sent = [app.send_task("broker_app.tasks.add", (2, 2), queue=queue) for queue in ("default", "lopri")]
        assert [result.get(timeout=SECONDS) for result in sent] == [4, 4]
