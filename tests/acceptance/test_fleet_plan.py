"""`broker-app fleet plan`, `logs` and `status`: what an operator reads is true."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from fleets import SCRIPTS, SETTINGS, Host, host
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOP = """
import os, time
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def told():
    return [os.environ.get("SHOP_KEY"), os.nice(0)]
"""
CALL = "import json, shop; print(json.dumps(shop.told.apply_async(queue='lopri').get(timeout=120)))"
MORE = 'environment = {SHOP_KEY = "top $ecret\'s"}\nnice = 3\n'


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker and a project."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        (made.folder / "shop.py").write_text(SHOP)
        yield made


@pytest.mark.timeout(300)
def test_a_planned_line_works_when_it_is_pasted_into_a_shell(machine: Host, tmp_path: Path) -> None:
    """It starts the node, with the queue's variables and nice level, from any folder; no secret is in it."""
    machine.write(SETTINGS + MORE)
    planned = machine.fleet("plan", "lopri", app="shop")
    assert planned.returncode == 0, planned.stderr
    needed, node, line = planned.stdout.splitlines()
    assert needed.endswith("BROKER_APP_BROKER_URL")
    assert node.startswith("# lopri: lopri@")
    assert "ecret" not in planned.stdout
    assert "amqp" not in planned.stdout

    shell = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BROKER_APP_BROKER_URL": machine.url}
    subprocess.run(["/bin/sh", "-c", line], cwd="/", env=shell | _mark(), check=True, timeout=240)

    wait_until(lambda: "lopri" in machine.consuming("shop"), 90, "the node to consume")
    assert machine.status("lopri", app="shop")["lopri"]["is_consuming"]
    done = machine.run(str(SCRIPTS / "python"), "-c", CALL)
    assert json.loads(done.stdout) == ["top $ecret's", os.nice(0) + 3], done.stderr

    def shown() -> dict[str, Any]:
        return machine.status("lopri", app="shop")["lopri"]

    wait_until(lambda: (shown()["done"], shown()["active"]) == (1, 0), 60, "its task to be counted")
    assert shown()["version"] is None
    assert shown()["memory_bytes"] > 10_000_000
    assert shown()["uptime_seconds"] > 0
    logs = machine.fleet("logs", "lopri", "-n", "5000", app="shop").stdout
    assert "shop.told" in logs
    assert "ecret" not in machine.fleet("status", app="shop").stdout


def _mark() -> dict[str, str]:
    """Return the mark by which the processes of a test run are recognised."""
    return {name: value for name, value in os.environ.items() if name.startswith("TEST_")}
