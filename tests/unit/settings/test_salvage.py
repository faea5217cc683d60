"""The usable part of invalid settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker_app.settings import salvage_settings

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = [
    "[queues.lopri.fleet]\nnodes = -1\n[queues.default]",
    "[queues.lopri\n[queues.default]",
    "[queues.default]\n[queues.default]",
    "default_queue = 'none'\n[queues.lopri]",
    "broker_url_file = '/not/there'\n[queues.default.fleet]\nhelps = ['none']",
    "queues = {}",
    "queues = 3\nheartbeat_seconds = 'often'",
    "task_routes = {x = 'none'}\nnonsense = 1\n[publish]\npool_limit = 0",
    "= \n" * 150,
]


@pytest.mark.parametrize("faults", FAULTS)
def test_where_the_workers_are_is_known_whatever_else_is_wrong(tmp_path: Path, faults: str) -> None:
    """State folder and prefix are those of the file, whichever other lines are wrong."""
    file = tmp_path / "broker.toml"
    file.write_text(f"state_dir = '{tmp_path}'\nprefix = 'shop.'\n{faults}\n")
    settings = salvage_settings(file)
    assert (settings.state_dir, settings.prefix) == (tmp_path, "shop.")
    assert settings.queues


def test_the_environment_wins_and_cannot_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' folder is that of the variable; a variable that is wrong does not count."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("BROKER_APP_HEARTBEAT_SECONDS", "often")
    monkeypatch.setenv("BROKER_APP_QUEUES__LOPRI__FLEET__NODES", "-1")
    settings = salvage_settings(tmp_path / "not-there.toml")
    assert (settings.state_dir, settings.heartbeat_seconds) == (tmp_path, 10.0)


def test_right_values_beside_wrong_ones_are_kept(tmp_path: Path) -> None:
    """A fleet's drain time is known although its number of nodes is invalid."""
    file = tmp_path / "broker.toml"
    file.write_text("[queues.default.fleet]\nnodes = -1\ndrain_seconds = 300\n")
    assert salvage_settings(file).queues["default"].fleet.drain_seconds == 300
