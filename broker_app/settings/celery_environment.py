"""Celery's URL environment variables, which override all other Celery settings.

A variable left over from another project would silently send tasks to a broker other than ``broker_url``. A value
that differs is therefore refused; an equal one, which Flower needs, is allowed. The options ``-b`` and
``--result-backend`` of the ``celery`` command also set these variables; they are intentional and take precedence.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from broker_app.errors import SettingsError
from broker_app.settings.problems import ENV_PREFIX

_BROKER = (("broker_url",), "broker_url")
_VARIABLES = {
    "CELERY_BROKER_URL": _BROKER,
    "CELERY_BROKER_READ_URL": (("broker_read_url", "broker_url"), "broker_url"),
    "CELERY_BROKER_WRITE_URL": (("broker_write_url", "broker_url"), "broker_url"),
    "CELERY_RESULT_BACKEND": (("result_backend",), "result_url"),
}
"""By variable: the Celery settings it overrides (the first one set), and our setting (celery/app/utils.py)."""

_OPTIONS = {"broker": "CELERY_BROKER_URL", "result_backend": "CELERY_RESULT_BACKEND"}
"""By parameter of the ``celery`` command: the variable that it sets (celery/bin/celery.py)."""


def refuse_celery_environment(conf: Any) -> None:
    """Refuse variables that would override the configuration.

    Args:
        conf: Celery's configuration, already loaded.

    Raises:
        SettingsError: A variable differs from its setting; one line per variable.
    """
    problems, typed = [], _typed()
    for variable, (keys, ours) in _VARIABLES.items():
        value = os.environ.get(variable)
        if value and variable not in typed and value not in _values(conf, keys):
            problems.append(
                f"environment ({variable}): expected none or {ours}, "
                f"got another URL, which would override {ENV_PREFIX}{ours.upper()} and the file; unset it, or "
                f"set {ENV_PREFIX}{ours.upper()} to the same URL"
            )
    if problems:
        raise SettingsError(problems)


def _typed() -> set[str]:
    """Return the variables that options of the running ``celery`` command have set."""
    context = click.get_current_context(silent=True)
    if context is None:
        return set()
    source = context.find_root().get_parameter_source
    return {variable for name, variable in _OPTIONS.items() if source(name) is ParameterSource.COMMANDLINE}


def _values(conf: Any, keys: tuple[str, ...]) -> set[str]:
    """Return the accepted spellings of the URL in effect: in Celery's form, a ``db+`` URL names our backend."""
    value = next((found for key in keys if (found := conf.get(key))), "")
    text = str(value)
    return {text, text.replace("broker_app.results.sql:DatabaseBackend+", "db+", 1)}
