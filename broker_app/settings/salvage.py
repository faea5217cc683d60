"""Salvage: reads the valid part of broken settings, enough to find and stop the workers of this host."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from broker_app.errors import SettingsError
from broker_app.settings.load import config_path
from broker_app.settings.model import Settings
from broker_app.settings.problems import ENV_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

_VARIABLES = ("state_dir", "prefix", "heartbeat_seconds", "blocked_loop_seconds", "broker_url", "broker_url_file")
"""Settings that are also read from the environment: those needed to find the workers and to contact them."""

_REFERENCES = ("broker_url_file", "task_routes", "default_queue", "queues")
"""Settings that can contradict each other; dropped in this order until the rest is valid."""

_MOST_FAULTS = 100

_LINE = re.compile(r"\(at line (\d+), ")


class _Salvaged(Settings):
    """Settings that ignore the environment, which may contain the error."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the arguments as the only source."""
        del settings_cls
        return (init_settings,)


def salvage_settings(path: Path | str | None = None) -> Settings:
    """Return the settings without their invalid values; never raises.

    Args:
        path: As for `load_settings`.
    """
    content = _readable(path)
    for name in _VARIABLES:
        if value := os.environ.get(f"{ENV_PREFIX}{name.upper()}"):
            content[name] = value
    references = list(_REFERENCES)
    for _ in range(_MOST_FAULTS):
        try:
            return _Salvaged(**content)
        except ValidationError as error:
            places = [item["loc"] for item in error.errors() if item["loc"]]
            for place in places or [(name,) for name in references[:1]]:
                _drop(content, place)
            del references[: not places]
    return _Salvaged()


def _readable(path: Path | str | None) -> dict[str, Any]:
    """Return the content of a settings file, without the lines that are not valid TOML."""
    try:
        file = config_path(path)
        lines = [] if file is None else file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except (SettingsError, OSError):
        return {}
    while True:
        try:
            return tomllib.loads("\n".join(lines))
        except tomllib.TOMLDecodeError as error:
            match = _LINE.search(str(error))
            del lines[int(match.group(1)) - 1 if match else -1]


def _drop(content: dict[str, Any], place: tuple[int | str, ...]) -> None:
    """Remove the deepest existing part of an invalid location; the entire setting if it is not a table."""
    table: Any = content
    for key in place[:-1]:
        if not isinstance(table.get(key), dict) or not table[key]:
            break
        table = table[key]
    else:
        key = place[-1]
    if isinstance(table, dict) and key in table:
        del table[key]
    else:
        content.pop(str(place[0]), None)
