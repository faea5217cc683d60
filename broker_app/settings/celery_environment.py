"""Celery's environment variables for URLs, which win over every other setting of Celery's.

A variable that another project left behind would silently send tasks to another broker than the one that
``broker_url`` names. So one that differs is refused; an equal one, such as Flower wants, is fine.
"""

from __future__ import annotations

import os
from typing import Any

from broker_app.errors import SettingsError
from broker_app.settings.problems import ENV_PREFIX

_BROKER = (("broker_url",), "broker_url")
_VARIABLES = {
    "CELERY_BROKER_URL": _BROKER,
    "CELERY_BROKER_READ_URL": (("broker_read_url", "broker_url"), "broker_url"),
    "CELERY_BROKER_WRITE_URL": (("broker_write_url", "broker_url"), "broker_url"),
    "CELERY_RESULT_BACKEND": (("result_backend",), "result_url"),
}
"""By variable: Celery's settings that it replaces, the first that is set; and ours (celery/app/utils.py)."""


def refuse_celery_environment(conf: Any) -> None:
    """Refuse variables that replace what the configuration says.

    Args:
        conf: Celery's configuration, loaded.

    Raises:
        SettingsError: A line for each that differs.
    """
    problems = []
    for variable, (keys, ours) in _VARIABLES.items():
        value = os.environ.get(variable)
        if value and value not in _values(conf, keys):
            problems.append(
                f"environment ({variable}, or an option of the celery command): expected none or {ours}, "
                f"got another, which would win over {ENV_PREFIX}{ours.upper()} and the file; unset it, or "
                f"set {ENV_PREFIX}{ours.upper()} to it"
            )
    if problems:
        raise SettingsError(problems)


def _values(conf: Any, keys: tuple[str, ...]) -> set[str]:
    """Return how the URL in force may be written: Celery's form of a ``db+`` URL names our backend."""
    value = next((found for key in keys if (found := conf.get(key))), "")
    text = str(value)
    return {text, text.replace("broker_app.results.sql:DatabaseBackend+", "db+", 1)}
