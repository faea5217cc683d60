"""Fallback for apps that fail to load, so that `fleet stop` and `fleet status` still work."""

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
    """An app with the part of its settings that is still readable.

    Args:
        main: The app's main name; its folders are named after it.
        config: See `BrokerApp`.
    """

    def __init__(self, main: str | None, config: Path | str | None = None) -> None:
        super().__init__(main, config=config, set_as_current=False)

    @cached_property
    def settings(self) -> Settings:
        """The settings, without the invalid ones."""
        return salvage_settings(self._config_file)


def remains_of(app: BrokerApp) -> RemainsApp:
    """Return the fallback for an app that loads but whose settings are invalid."""
    return RemainsApp(app.main, app._config_file)  # noqa: SLF001 - one class in two files


def remains_by_processes(app_name: str) -> RemainsApp | None:
    """Return the fallback for an app that fails to load, found by its workers' command lines; None if none runs.

    Args:
        app_name: Celery's ``-A`` argument.
    """
    ours = salvage_settings().state_dir / "run"
    names = sorted(folder.name for folder in run_folders(app_name) if folder.parent == ours)
    return RemainsApp(names[0]) if names else None
