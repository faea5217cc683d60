"""Units for systemd."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp
from broker_app.errors import FleetError
from broker_app.fleet.systemd import units, write_units

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BrokerApp:
    """Return an app with a queue whose name a unit's cannot hold, in a folder that systemd would take apart."""
    folder = tmp_path / "50% of $HOME"
    folder.mkdir()
    (folder / "broker.toml").write_text(
        'default_queue = "a.b"\n[queues."a.b".fleet]\ndrain_seconds = 300\n[queues.lopri]\n'
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BROKER_APP_CONFIG", "broker.toml")
    monkeypatch.setenv("BROKER_APP_BROKER_URL", "amqp://user:s3cret@127.0.0.1//")
    return BrokerApp("shop", set_as_current=False)


def test_systemd_itself_finds_no_fault(app: BrokerApp, tmp_path: Path) -> None:
    """`systemd-analyze verify`, where it is installed, has nothing to say about the units."""
    made = units(app, app_name="shop:app", secrets=tmp_path / "secrets.env")
    files = write_units(made, tmp_path / "units")
    assert [file.name for file in files] == ["shop:app-a.b.service", "shop:app-lopri.service", "shop:app.target"]
    if (program := shutil.which("systemd-analyze")) is None:
        return
    done = subprocess.run([program, "verify", *files], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "shop" in line]
    assert ours == []


def test_a_service_gives_its_tasks_time_and_holds_no_secret(app: BrokerApp, tmp_path: Path) -> None:
    """The stop's bound is more than the queue's drain_seconds; secrets are in a file of their own."""
    service = units(app, app_name="shop", secrets=tmp_path / "secrets.env")[0].text
    assert "TimeoutStopSec=345" in service
    assert f"EnvironmentFile=-{tmp_path}/secrets.env" in service
    assert "-A shop fleet supervise a.b" in service
    assert "WorkingDirectory=" + str(tmp_path / "50%% of $HOME") in service
    assert "s3cret" not in service


def test_units_for_a_user_name_none(app: BrokerApp, tmp_path: Path) -> None:
    """`systemctl --user` runs them as who they belong to, from their own default target."""
    *services, target = units(app, app_name="shop", secrets=tmp_path / "s", is_for_user=True)
    assert not any("User=" in service.text for service in services)
    assert "WantedBy=default.target" in target.text


def test_a_folder_that_cannot_be_written_is_one_line(app: BrokerApp, tmp_path: Path) -> None:
    """It is named, with the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(FleetError, match=r"file: expected a folder that can be written, got: "):
        write_units(units(app, app_name="shop", secrets=tmp_path / "s"), tmp_path / "file")
