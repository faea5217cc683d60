"""A cluster of three nodes that loses one: nothing confirmed is lost, and publishing and work go on.

It needs about 1 GB of memory and two minutes, and can be run apart: ``pytest -m cluster``.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from cluster import NODES, Cluster, running_cluster
from containers import container_at
from ledger import Ledger, kill, ledger
from rabbitmqctl import port_of
from waiting import wait_until

from broker_app.local_broker import DEFAULT_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(560)]

SETTINGS = 'common_lanes = ["1s"]\n[queues.default]\n'

PUBLISHER = """
import pathlib, time
from uuid import uuid4
from shop import app

diary, number = pathlib.Path("published").open("a", buffering=1), 0
while True:
    identity, number = str(uuid4()), number + 1
    try:
        app.send_task("shop.note", task_id=identity, countdown=1 if number % 5 == 0 else None)
    except Exception as error:
        diary.write(f"failed {identity} {type(error).__name__} {time.time()}\\n")
    else:
        diary.write(f"confirmed {identity} - {time.time()}\\n")
    time.sleep(0.05)
"""
GO_ON_SECONDS = 90


@pytest.fixture(scope="module")
def cluster(broker: FoundBroker) -> Iterator[Cluster]:
    """Return a cluster of the version of the run's broker; each test leaves all of its nodes running."""
    with running_cluster(container_at(port_of(broker.url), "{{.Image}}") or DEFAULT_IMAGE) as made:
        yield made


@pytest.fixture
def shop(tmp_path: Path, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Return a project with names of its own, whose processes know all three nodes."""
    settings = f'prefix = "{request.node.name}."\n{SETTINGS}'
    with ledger(tmp_path, cluster.url, settings) as made:
        (tmp_path / "publisher.py").write_text(PUBLISHER)
        made.variables["BROKER_APP_MANAGEMENT_URL"] = cluster.management(1).url
        yield made


def notes(shop: Ledger, what: str) -> dict[str, float]:
    """Return when each id was confirmed, or failed."""
    file = shop.folder / "published"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return {line.split()[1]: float(line.split()[3]) for line in lines if line.startswith(what)}


@contextmanager
def busy(shop: Ledger) -> Iterator[None]:
    """Let two workers work and one producer publish for the length of a block; then all that is confirmed runs."""
    applied = shop.run("broker-app", "-A", "shop", "topology", "apply", "--json")
    assert applied.returncode == 0, applied
    assert json.loads(applied.stdout)["is_complete"], applied
    options = ("-Q", "default", "-P", "threads", "-c", "4")
    with (
        shop.worker(*options) as one,
        shop.worker(*options, name="two") as two,
        shop.popen("python", "publisher.py") as publisher,
    ):
        try:
            wait_until(lambda: len(shop.runs()) > 20, 60, "the first tasks")
            yield
            kill(publisher)
            confirmed = notes(shop, "confirmed").keys()
            wait_until(lambda: not confirmed - shop.runs().keys(), GO_ON_SECONDS, "every confirmed task to run")
            assert one.process.poll() is two.process.poll() is None
        finally:
            kill(publisher)


def go_on(shop: Ledger) -> None:
    """Wait until tasks that are confirmed from now on have run."""
    before = set(notes(shop, "confirmed"))
    wait_until(
        lambda: len((notes(shop, "confirmed").keys() - before) & shop.runs().keys()) > 20,
        GO_ON_SECONDS,
        "tasks to be published and to run",
    )


def check(shop: Ledger) -> None:
    """See that a task that ran twice was marked, or redelivered."""
    for runs in shop.runs().values():
        assert len(runs) - 1 <= sum(run["maybe_twice"] or run["redelivered"] for run in runs), runs


@pytest.mark.version
def test_the_leader_of_the_queue_is_killed(shop: Ledger, cluster: Cluster) -> None:
    """The queue lives on all three nodes; its leader dies, later another node: work goes on with the other two."""
    queue = "test_the_leader_of_the_queue_is_killed.default"
    with busy(shop):
        wait_until(lambda: len(cluster.queue(queue).get("members", ())) == len(NODES), 30, "a member on each node")
        leader = cluster.leader(queue)
        cluster.kill(leader)
        go_on(shop)
        cluster.start(leader)
        follower = next(node for node in NODES if node != cluster.leader(queue))
        cluster.kill(follower)
        go_on(shop)
        cluster.start(follower)
        go_on(shop)
    check(shop)


@pytest.mark.version
def test_the_node_of_the_workers_is_killed_after_another_was(shop: Ledger, cluster: Cluster) -> None:
    """Workers whose node dies come back on one that was away before, which may lock their mailboxes' names."""
    with busy(shop):
        cluster.kill(2)
        go_on(shop)
        cluster.start(2)
        cluster.kill(1)  # the first of the URL, to which all are connected
        go_on(shop)
        cluster.start(1)
        go_on(shop)
    check(shop)


@pytest.mark.version
def test_rolling_restart(shop: Ledger, cluster: Cluster) -> None:
    """Each node is stopped in order and started again, as for an upgrade: publishing and work go on throughout."""
    with busy(shop):
        for node in NODES:
            cluster.stop(node)
            go_on(shop)
            cluster.start(node)
        go_on(shop)
    check(shop)
