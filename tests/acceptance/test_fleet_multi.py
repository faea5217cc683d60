"""Other ways to the same workers: plain `celery multi`, `celery … fleet`, Python, every pool, two apps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from fleets import SCRIPTS, Host, host
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.errors import FleetError
from broker_app.fleet import start_fleets, stop_fleets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOP = 'from broker_app import BrokerApp\napp = BrokerApp("shop")\n'
CELERY = str(SCRIPTS / "celery")


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        yield made


def test_the_plain_celery_multi_command_works(machine: Host) -> None:
    """`celery multi start … -A broker_app` with options for each node runs its queue's tasks."""
    run, log = machine.folder / "run", machine.folder / "log"
    files = [f"--pidfile={run}/%n.pid", f"--logfile={log}/%n%I.log"]
    nodes = ["-Q:lopri", "lopri", "-Q:default", "default", "-c:lopri", "4", "-c:default", "2", "-P", "threads"]

    done = machine.run(
        CELERY, "multi", "start", "lopri", "default", "-A", "broker_app", *nodes, "-l", "INFO", *files
    )

    assert done.returncode == 0, done.stderr
    for queue in ("lopri", "default"):
        call = ["send", "broker_app.tasks.add", "2", "2", "--queue", queue, "--wait"]
        sent = machine.run(str(SCRIPTS / "broker-app"), *call)
        assert sent.returncode == 0, sent.stderr
        assert f"{queue}@" in (log / f"{queue}.log").read_text()
    assert machine.run(CELERY, "multi", "stopwait", "lopri", "default", *files).returncode == 0
    wait_until(lambda: not list(run.glob("*.pid")), 30, "the end of the workers")


def test_every_pool_comes_up_and_is_seen(machine: Host) -> None:
    """A fleet of each pool answers, consumes, and shows its pool and slots."""
    pools = {"prefork": 2, "threads": 2, "solo": 1, "gevent": 2}
    tables = [f'[queues.{pool}.fleet]\npool = "{pool}"\nconcurrency = {slots}\n' for pool, slots in pools.items()]
    machine.write('default_queue = "solo"\n' + "".join(tables))

    machine.start()

    assert {name: (node["pool"], node["slots"]) for name, node in machine.status().items()} == {
        pool: (pool, slots) for pool, slots in pools.items()
    }
    assert machine.fleet("stopwait").returncode == 0
    assert not machine.workers()


def test_two_apps_on_one_host_and_state_folder_do_not_touch_each_other(machine: Host) -> None:
    """With a prefix each, two apps on one broker have their own nodes: neither sees nor stops the other's."""
    (machine.folder / "shop.py").write_text(SHOP)
    machine.start("lopri")
    ours = machine.workers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "environment", machine.environment | {"BROKER_APP_PREFIX": "shop."})
        said = machine.start("lopri", app="shop")
        assert said.startswith("shop.lopri@")
        assert set(machine.workers("shop")) == {"shop.lopri"}
        assert machine.fleet("stopwait", app="shop").returncode == 0

    assert not machine.workers("shop")
    assert machine.workers() == ours


def test_the_group_is_a_sub_command_of_celery(machine: Host) -> None:
    """`celery -A shop fleet status` does what `broker-app -A shop fleet status` does."""
    (machine.folder / "shop.py").write_text(SHOP)

    shown = machine.run(CELERY, "-A", "shop", "fleet", "status", "--json")

    assert shown.returncode == 1
    assert [node["queue"] for node in json.loads(shown.stdout)["nodes"]] == ["default", "lopri"]


def test_python_starts_fleets_on_a_private_broker(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """`start_fleets` gives the workers a broker and a state folder through their environment alone."""
    monkeypatch.chdir(machine.folder)
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(machine.state))
    app = BrokerApp("broker_app", set_as_current=False, broker=machine.url)

    started = start_fleets(app, ["lopri"], environment={"BROKER_APP_BROKER_URL": machine.url}, wait_seconds=180)

    assert [node.pid for node in started] == [machine.workers()["lopri"]]
    assert "BROKER_APP_BROKER_URL" not in os.environ
    assert [node.node.queue for node in stop_fleets(app)] == ["lopri"]
    assert not machine.workers()
    app.close()


def test_python_learns_why_nothing_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`start_fleets` raises FleetError when the state folder cannot be used."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "file"))

    with pytest.raises(FleetError, match="expected a folder that this user may write"):
        start_fleets(BrokerApp("shop", set_as_current=False))
