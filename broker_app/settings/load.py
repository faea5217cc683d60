"""Loading of the settings. The environment takes precedence over the file, the file over the defaults."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError as EnvironmentJsonError

from broker_app.errors import SettingsError
from broker_app.settings.model import Settings, default_queues
from broker_app.settings.problems import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    bad_json,
    sentences,
    unknown_keys,
    unknown_variables,
)
from broker_app.settings.references import bad_helps, bad_names, bad_references

DEFAULT_CONFIG = Path("config/broker.toml")
"""Read if it exists and no other file is named. A named file must exist."""


def load_settings(path: Path | str | None = None) -> Settings:
    """Read the settings. The environment takes precedence over the file, the file over the defaults.

    Args:
        path: The settings file. None means ``BROKER_APP_CONFIG``, else `DEFAULT_CONFIG` in the current folder if
            it exists, else no file.

    Raises:
        SettingsError: The settings are invalid. Lists all errors, each with its location; secrets are not shown.
    """
    file = config_path(path)
    content = {} if file is None else _read_toml(file)
    base = {} if "queues" in content else {"queues": _dump_queues()}
    declared = (base | content)["queues"]
    problems = unknown_keys(content, Settings, "", str(file))
    problems += unknown_variables(os.environ, Settings, declared if isinstance(declared, dict) else ())
    try:
        settings = Settings(**(base | content))
    except ValidationError as error:
        problems += sentences(error, content, str(file) if file else "built-in defaults")
        if not any(item["loc"] == () for item in error.errors()):
            problems += _names_in(content, str(file))
        raise SettingsError(problems) from None
    except EnvironmentJsonError:
        raise SettingsError([*problems, *bad_json(os.environ, Settings), *_names_in(content, str(file))]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def broker_url_from_environment() -> str | None:
    """Return the broker URL from the environment; None if it is not set."""
    return os.environ.get(f"{ENV_PREFIX}BROKER_URL")


def config_path(path: Path | str | None = None) -> Path | None:
    """Return the file that `load_settings` reads; None if there is no file.

    Raises:
        SettingsError: The named file does not exist or cannot be accessed.
    """
    named = path or os.environ.get(CONFIG_VARIABLE)
    if not named:
        return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
    where = "the argument config" if path else CONFIG_VARIABLE
    try:
        file = Path(named).expanduser()
        if _is_file(file):
            return file.resolve()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError([f"{where}: expected a settings file, got {named}: {reason}"]) from error
    raise SettingsError(
        [f"{where}: expected a settings file, got {named}, which is not an existing file; correct the path"]
    )


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; from Python 3.14 on, `Path.is_file` hides a missing permission."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _names_in(content: Mapping[str, Any], file: str) -> list[str]:
    """Check the names in a file with invalid fields, for which pydantic skips the model-wide checks."""
    queues, routes = content.get("queues", default_queues()), content.get("task_routes", {})
    if not isinstance(queues, Mapping) or not isinstance(routes, Mapping):
        return []
    default_queue = str(content.get("default_queue", Settings.model_fields["default_queue"].default))
    routes = {pattern: str(queue) for pattern, queue in routes.items()}
    problems = [
        *bad_names(queues, str(content.get("prefix", ""))),
        *bad_references(queues, default_queue, routes),
        *bad_helps(_helps(queues)),
    ]
    return [f"{file}: {problem}" for problem in problems]


def _helps(queues: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the ``helps`` of each queue's fleet; empty where it is not a list."""
    fleets = {name: table.get("fleet") for name, table in queues.items() if isinstance(table, Mapping)}
    lists = {name: fleet.get("helps", []) for name, fleet in fleets.items() if isinstance(fleet, Mapping)}
    valid = {name: tuple(helps) for name, helps in lists.items() if isinstance(helps, list)}
    return {name: tuple(map(str, valid.get(name, ()))) for name in queues}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{file}: expected a readable file, got: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            [f"{file}: expected TOML (a queue or key may appear only once), got: {error}"]
        ) from error


def _dump_queues() -> dict[str, Any]:
    return {name: queue.model_dump() for name, queue in default_queues().items()}
