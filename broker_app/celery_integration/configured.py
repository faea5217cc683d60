"""Configured app: a Celery app whose configuration follows from our settings, which are loaded on first use."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery

from broker_app.celery_integration.config import celery_settings
from broker_app.errors import SettingsError
from broker_app.settings import config_path, load_settings, refuse_celery_environment, shown_in_one_line

if TYPE_CHECKING:
    from pathlib import Path

    from broker_app.settings import Settings


class ConfiguredApp(Celery):
    """A Celery app with settings. Creating it reads nothing.

    Args:
        main: The name of the main module, as in Celery.
        config: The settings file; None means ``BROKER_APP_CONFIG``, else ``config/broker.toml`` if it exists.
        **kwargs: Celery's arguments.
    """

    def __init__(self, main: str | None = None, *, config: Path | str | None = None, **kwargs: Any) -> None:
        self._config_file = config
        self._loading = threading.RLock()
        self._is_loaded = False
        super().__init__(main, **kwargs)

    @property
    def config_file(self) -> Path | None:
        """The settings file; None if only the defaults and the environment are used.

        Raises:
            SettingsError: The named file does not exist.
        """
        return config_path(self._config_file)

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once.

        Raises:
            SettingsError: The settings are invalid. A click command prints its lines without a traceback.
        """
        with shown_in_one_line():
            return load_settings(self._config_file)

    @property
    def conf(self) -> Any:
        """Celery's configuration. While one thread loads it, other threads wait.

        Without the lock, Celery exposes it before our values are set, and the other threads would use the wrong
        broker and lose results.
        """
        conf = self._conf
        if conf is not None and self._is_loaded:  # fast path: read several times per call
            return conf
        with self._loading:
            return super().conf

    @conf.setter
    def conf(self, conf: Any) -> None:
        """Set the configuration, as Celery does."""
        self._conf = conf

    def _load_config(self) -> Any:
        with self._loading:
            if not self._is_loaded or self._conf is None:  # None: `config_from_object` asked for a reload
                self._is_loaded = False
                defaults = celery_settings(self.settings)
                self._pending_defaults.appendleft(lambda: self._replace_defaults(defaults))
                super()._load_config()
                self._refuse_environment()
                self._is_loaded = True
            return self._conf

    def _refuse_environment(self) -> None:
        """Refuse Celery's variables that would override our settings; the next access to ``conf`` checks again."""
        try:
            with shown_in_one_line():
                refuse_celery_environment(self._conf)
        except SettingsError:
            self._conf = None
            raise

    def _replace_defaults(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """Replace Celery's defaults with our values, and return no values that would override the user's.

        With `add_defaults`, our values would override those from `config_from_object`.
        """
        self._conf.defaults[-1].update(defaults)
        return {}

    def __reduce_keys__(self) -> dict[str, Any]:
        """Keep the settings file when the app is pickled to another process."""
        return dict(super().__reduce_keys__(), config=self._config_file)
