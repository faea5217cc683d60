"""The probes' answers to a heartbeat file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from broker_app import BrokerApp
from broker_app.cli import main
from broker_app.errors import FleetError
from broker_app.fleet.state import FleetState
from broker_app.monitoring.probes import Probe, judge, probe
from broker_app.settings import Settings
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app(tmp_path: Path) -> BrokerApp:
    """Return an app with a state folder of its own."""
    file = tmp_path / "broker.toml"
    file.write_text(f"state_dir = {json.dumps(str(tmp_path / 'state'))}\n[queues.default]\n", encoding="utf-8")
    return BrokerApp("shop", config=file, set_as_current=False)


def write(app: BrokerApp, node: str, **changed: Any) -> None:
    """Write a sign of life as a worker does; it is fresh unless ``changed`` says otherwise."""
    now = time.monotonic()
    sign = {"pid": 1, "turned_at": now, "heard_at": now, "queues": ["default"], "paused": []} | changed
    file = FleetState.of(app).sign_file(node)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sign), encoding="utf-8")


@pytest.mark.parametrize(
    ("sign", "is_live", "is_ready", "words"),
    [
        (Heartbeat(1, 0.5, 1.0, ("lopri",)), True, True, "ready, consumes lopri"),
        (Heartbeat(1, 0.5, 1.0, ("default",), ("lopri",)), True, True, "ready, consumes default, lopri (paused)"),
        (Heartbeat(1, 0.5, 1.0, (), ("lopri",)), True, True, "ready, consumes lopri (paused)"),
        (Heartbeat(1, 0.5, 1.0, ()), True, False, "consumes nothing: starting or shutting down"),
        (Heartbeat(1, 0.5, 31.0, ("lopri",)), False, False, "has not heard from the broker for 31 s"),
        (Heartbeat(1, 0.5, None, ()), False, False, "has not heard from the broker yet"),
        (Heartbeat(1, 15.0, 1.0, ("lopri",)), False, False, "its loop has not turned for 15 s"),
        (Heartbeat(1, 0.5, 1.0, ("lopri",), (), 30.0), False, False, "its coroutines have been blocked for 30 s"),
        (Heartbeat(1, 0.5, 1.0, ("lopri",), (), 29.9), True, True, "ready, consumes lopri"),
        (None, False, False, "no heartbeat"),
    ],
)
def test_what_is_live_and_what_is_ready(
    sign: Heartbeat | None,
    is_live: bool,  # noqa: FBT001 - a case
    is_ready: bool,  # noqa: FBT001
    words: str,
) -> None:
    """Live is a loop that turns and a broker that is heard; ready consumes, or is paused on purpose."""
    assert judge("lopri", Probe.LIVE, sign, Settings()).is_ok is is_live
    assert str(judge("lopri", Probe.READY, sign, Settings())) == f"lopri: {words}"
    assert judge("lopri", Probe.READY, sign, Settings()).is_ok is is_ready


def test_a_node_is_found_by_its_name_or_alone(app: BrokerApp) -> None:
    """With or without its host; without a name the only one, or the only one that still gives signs."""
    write(app, "shop.lopri+2")
    assert probe(app, Probe.READY).node == "shop.lopri+2"
    assert probe(app, Probe.READY, "shop.lopri+2@host").is_ok
    write(app, "gone", turned_at=time.monotonic() - 100)
    assert probe(app, Probe.READY).node == "shop.lopri+2"
    write(app, "other")
    with pytest.raises(FleetError, match=r"several: other, shop\.lopri"):
        probe(app, Probe.READY)


@pytest.mark.parametrize("node", ["missing", "../../other/run/default", "*", ""])
def test_a_node_that_is_not_there_is_an_error(app: BrokerApp, node: str) -> None:
    """Its name is looked for among those of the folder, and is no path."""
    write(app, "default")
    with pytest.raises(FleetError, match="found default"):
        probe(app, Probe.LIVE, node)


def test_a_sign_from_before_the_last_boot_is_none(app: BrokerApp) -> None:
    """The monotonic clock restarted: a moment in the future is old."""
    write(app, "default", turned_at=time.monotonic() + 1_000)
    assert not probe(app, Probe.LIVE).is_ok


def test_the_command_says_it_in_one_line(app: BrokerApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 0 if it is, 1 if it is not or there is no node; a pid file elsewhere can be named."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(app.settings.state_dir))
    monkeypatch.setenv("BROKER_APP_CONFIG", str(app.config_file))
    project = "from broker_app import BrokerApp\napp = BrokerApp('shop')\n"
    (tmp_path / "shop.py").write_text(project, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["-A", "shop", "probe", *words])
        return done.exit_code, done.output

    code, text = run("live")
    assert code == 1
    assert "expected the heartbeat file of one node, found none" in text
    write(app, "default")
    assert run("ready") == (0, "default: ready, consumes default\n")
    write(app, "default", queues=[])
    assert run("ready", "default") == (1, "default: consumes nothing: starting or shutting down\n")
    assert run("live", "default")[0] == 0
    pid_file = str(FleetState.of(app).pid_file("default"))
    assert run("live", "--pidfile", pid_file)[0] == 0
    assert run("live", "default", "--pidfile", pid_file)[0] == 2
