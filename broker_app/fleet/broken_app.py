"""Broken apps: settings or modules fail to load, and `fleet stop` and `status` still work on the nodes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from broker_app.app import BrokerApp
from broker_app.fleet.processes import run_folders
from broker_app.settings import salvage_settings

if TYPE_CHECKING:
    from pathlib import Path

    from broker_app.settings import Settings


class RemainsApp(BrokerApp):
    """An app with what can still be read of its settings.

    Args:
        main: The app's main name, which its folders have.
        config: As `BrokerApp`.
    """

    def __init__(self, main: str | None, config: Path | str | None = None) -> None:
        super().__init__(main, config=config, set_as_current=False)

    @cached_property
    def settings(self) -> Settings:
        """The settings, less what is wrong."""
        return salvage_settings(self._config_file)


def remains_of(app: BrokerApp) -> RemainsApp:
    """Return an app that can be loaded, but not its settings."""
    return RemainsApp(app.main, app._config_file)  # noqa: SLF001 - one class in two files


def remains_by_processes(app_name: str) -> RemainsApp | None:
    """Find the workers of an app that fails to load by their command lines; None if no worker of it runs.

    Args:
        app_name: As Celery's ``-A``.
    """
    ours = salvage_settings().state_dir / "run"
    names = sorted(folder.name for folder in run_folders(app_name) if folder.parent == ours)
    return RemainsApp(names[0]) if names else None
