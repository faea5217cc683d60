"""`broker-app tune` with real workers: what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import json
import signal
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from brokers import vhost_of
from ending import END_SECONDS
from fleets import SCRIPTS, Host, host
from waiting import wait_until

from broker_app.local_broker.process import marked
from broker_app.tuning.sandbox import MARK

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

pytestmark = pytest.mark.timeout(240)  # several workers, one after the other

BROKER_APP = str(SCRIPTS / "broker-app")
QUICK = ["--seconds", "0.5", "--minutes", "60", "--precision", "0.5", "--no-results"]
LONG = [*QUICK, "--pool", "threads", "--seconds", "60"]
SETTINGS = """
[queues.default]
[queues.lopri]                  # the slow work
[queues.lopri.fleet]
concurrency = 30                # guessed
"""
SHOP = """
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
async def pay(amount):
    raise ValueError(f"no money for {amount}")
"""


@pytest.fixture
def machine(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Host]:
    """Return a host with its own broker."""
    with host(tmp_path / "project", fresh_vhost_url) as made:
        made.write(SETTINGS)
        yield made


def on_broker(management: Management, machine: Host) -> set[str]:
    """Return the names of all queues and exchanges but the broker's own."""
    vhost = vhost_of(machine.url)
    found = [item["name"] for kind in ("queues", "exchanges") for item in management.get(f"{kind}/{vhost}")]
    return {name for name in found if name and not name.startswith("amq.")}


def places(machine: Host) -> list[Path]:
    """Return the folders of tuning runs."""
    return [folder for folder in machine.state.glob("tuning/*") if folder.is_dir()]


def begin(machine: Host) -> subprocess.Popen[str]:
    """Start a long run, and wait until its worker runs tasks."""
    process = machine.popen(BROKER_APP, "tune", "lopri", "--profile", "wait=20ms", *LONG)
    wait_until(
        lambda: any("\nran " in record.read_text() for record in machine.state.glob("tuning/*/record")),
        100,
        "runs",
    )
    return process


def workers(token: str) -> bool:
    """Return whether a run's processes are there."""
    return bool(marked(MARK, token))


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_tune_finds_draws_and_applies(machine: Host, management: Management, pool: str) -> None:
    """The result for a task that only waits is printed, drawn and written into the settings."""
    command = [BROKER_APP, "tune", "lopri", "--profile", "wait=20ms", "--max-concurrency", "2", *QUICK]
    command += ["--pool", pool]

    done = machine.run(*command, "--svg", "curves.svg", "--apply", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    slots = found["recommended"]["concurrency"]
    assert found["settings"] == ["[queues.lopri.fleet]", f'pool = "{pool}"', f"concurrency = {slots}"]
    assert "this takes" in done.stderr.splitlines()[0]
    assert found["celery_multi"] == f"celery multi start lopri -A broker_app -Q lopri -P {pool} -c {slots}"
    (measured,) = found["pools"]
    assert [point["slots"] for point in measured["points"]] == [1, 2]
    for point in measured["points"]:
        assert point["run"]["p50"] >= 0.02
        assert point["wait"]["count"] > 0
        assert point["usage"]["memory_bytes"] > 10 * 2**20
        assert point["usage"]["threads"] >= point["slots"] or pool == "asyncio"
    assert ET.parse(machine.folder / "curves.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own
    assert f"concurrency = {slots}                 # guessed" in (machine.folder / "broker.toml").read_text()
    assert f"with prefetch = 2: {pool} -c {slots}: " in done.stderr
    assert on_broker(management, machine) == set()
    assert not places(machine)


def test_an_interrupted_run_leaves_nothing_behind(machine: Host, management: Management) -> None:
    """After SIGTERM, then Ctrl-C, there is no worker, queue, exchange or folder, and the exit code says so."""
    with begin(machine) as process:
        (place,) = places(machine)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # a second one does not disturb the clean-up
        _, err = process.communicate(timeout=END_SECONDS)

    assert process.returncode == 130
    assert err.endswith("broker-app: interrupted\n")
    assert not workers(place.name)
    assert on_broker(management, machine) == set()
    assert not places(machine)


def test_what_a_killed_run_left_is_removed_by_the_next(machine: Host, management: Management) -> None:
    """After SIGKILL the worker ends by itself; the rest goes with the next run, here one whose task fails."""
    (machine.folder / "shop.py").write_text(SHOP)
    with begin(machine) as process:
        (place,) = places(machine)
        process.kill()
        process.communicate(timeout=END_SECONDS)
    wait_until(lambda: not workers(place.name), 60, "the end of the worker")
    assert on_broker(management, machine)

    done = machine.run(BROKER_APP, "-A", "shop", "tune", "lopri", "--task", "shop.pay", "--args", "[5]", *QUICK)

    assert (done.returncode, done.stdout) == (1, "")
    assert "shop.pay raised ValueError: no money for 5" in done.stderr.splitlines()[-1]
    assert on_broker(management, machine) == set()
    assert not places(machine)


def test_a_bound_on_the_time_holds_and_says_what_was_left_out(machine: Host) -> None:
    """With half a minute for 64 slots the run ends early, with a partial result and a note of the rest."""
    options = ["--pool", "threads", "--seconds", "0.5", "--precision", "0.5", "--no-results", "--minutes", "0.5"]

    done = machine.run(BROKER_APP, "tune", "lopri", "--profile", "wait=20ms", *options)

    assert "this takes up to 30 s (--minutes)" in done.stderr
    assert "threads was not measured to its end: --minutes left no time for -c" in done.stdout
    if done.returncode == 0:
        assert "[queues.lopri.fleet]" in done.stdout
