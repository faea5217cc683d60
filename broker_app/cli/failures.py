"""Errors that a command prints: one line per problem, and the exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

from kombu.exceptions import OperationalError

from broker_app.cli import exit_codes
from broker_app.cli.output import echo
from broker_app.errors import (
    BrokerAppError,
    BrokerError,
    BrokerNotFound,
    BrokerUnreachable,
    CallError,
    PublishError,
    RoutingError,
    SelectionError,
    SettingsError,
)

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (SettingsError, exit_codes.SETTINGS),
    (BrokerUnreachable, exit_codes.BROKER),
    (PublishError, exit_codes.NOT_PUBLISHED),
    (BrokerError, exit_codes.BROKER),
    (BrokerNotFound, exit_codes.BROKER),
    (OperationalError, exit_codes.BROKER),
    (RoutingError, exit_codes.USAGE),
    (CallError, exit_codes.USAGE),
    (SelectionError, exit_codes.USAGE),
    (BrokerAppError, exit_codes.FAILED),
)
"""Exit codes by error class; the first match applies."""


def is_expected(error: Exception) -> bool:
    """Return whether an error is shown as one line instead of a traceback."""
    return isinstance(error, (BrokerAppError, OperationalError))


def fail(error: Exception) -> NoReturn:
    """Print an error that `is_expected`, one line per problem, and exit with its code."""
    for problem in problems_of(error):
        echo(f"broker-app: {problem}", err=True)
    sys.exit(next(code for cls, code in _CODES if isinstance(error, cls)))


def problems_of(error: Exception) -> tuple[str, ...]:
    """Return the problems in an error: those of a `SettingsError`, else its text as one line."""
    return error.problems if isinstance(error, SettingsError) else (" ".join(str(error).split()),)
