"""Settings errors on Celery's command line: one line for each problem, without a traceback."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from broker_app.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXIT_CODE = 3
"""Same as `broker_app.cli.exit_codes.SETTINGS`."""


@contextmanager
def shown_in_one_line() -> Iterator[None]:
    """Make ``celery worker`` and other click commands print a `SettingsError` without a traceback."""
    try:
        yield
    except SettingsError as error:
        if _is_command():
            raise _command_fault(error.problems) from error.__cause__
        raise


def _is_command() -> bool:
    click: Any = sys.modules.get("click")  # not imported outside of commands
    return click is not None and click.get_current_context(silent=True) is not None


def _command_fault(problems: tuple[str, ...]) -> SettingsError:
    from click import ClickException, echo  # noqa: PLC0415 - producers need none of it

    class Fault(SettingsError, ClickException):
        exit_code = _EXIT_CODE

        def show(self, file: Any = None) -> None:
            del file
            for problem in self.problems:
                echo(f"broker-app: {problem}", err=True)

    return Fault(problems)
