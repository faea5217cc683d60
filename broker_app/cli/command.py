"""Base of all commands: finding the app, and printing errors as one line with an exit code.

Importing this module loads no Celery, so that `--help` is fast.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from broker_app.cli import exit_codes
from broker_app.cli.output import echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from broker_app.app import BrokerApp


@dataclass(frozen=True, slots=True)
class CliContext:
    """The context that the main group passes to its commands.

    Attributes:
        app: Loads the app when called.
        app_name: The ``-A`` argument.
        is_verbose: Whether to show tracebacks of errors.
    """

    app: Callable[[], BrokerApp]
    app_name: str
    is_verbose: bool


class _UsageFault(click.ClickException):
    """A usage error in one line; click would print the usage before it."""

    exit_code = exit_codes.USAGE

    def __init__(self, error: click.UsageError) -> None:
        path = error.ctx.command_path if error.ctx else "broker-app"
        super().__init__(f"{' '.join(error.format_message().split()).rstrip('.')}; see `{path} --help`")

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error."""
        echo(f"broker-app: {self.message}", file=file, err=file is None)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            raise  # a group without a command: click shows the help
        raise _UsageFault(error) from error


class _OneLineErrors(click.Command):
    """Prints errors and Ctrl-C as one line on stderr, and exits with the matching code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the command line."""
        with _usage_in_one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with _usage_in_one_line():
                return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            from broker_app.cli import failures  # noqa: PLC0415 - loads Celery, which `--help` does not need

            if getattr(ctx.obj, "is_verbose", False) or not failures.is_expected(error):
                raise
            failures.fail(error)
        except KeyboardInterrupt:
            echo("broker-app: interrupted", err=True)
            sys.exit(exit_codes.INTERRUPTED)


class Number(click.FloatRange):
    """A finite number; click's own range accepts ``nan``, for which every comparison is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the value to a finite number."""
        number = math.nan
        with suppress(click.BadParameter):
            number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a number{_limits(self)}, got {value!r}", param, ctx)
        return number


class WholeNumber(click.IntRange):
    """A whole number; the error names the limits in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert the value to a whole number."""
        try:
            number: int = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number{_limits(self)}, got {value!r}", param, ctx)
        return number


def _limits(numbers: click.FloatRange | click.IntRange) -> str:
    least = "" if numbers.min is None else f"{' above' if numbers.min_open else ' from'} {numbers.min:,}"
    return least if numbers.max is None else f"{least} to {numbers.max:,}"


class Command(_OneLineErrors):
    """A command."""


class Group(_OneLineErrors, click.Group):
    """A group of commands."""

    command_class = Command
    group_class = type  # nested groups use this class too

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; the error for an unknown one suggests the most similar."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from broker_app.queues.errors import nearest  # noqa: PLC0415 - as in `invoke`

            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.message.rstrip('.')}{hint}", ctx) from error


def find_app(name: str) -> BrokerApp:
    """Return the BrokerApp that ``-A`` names.

    Raises:
        click.UsageError: The module cannot be imported, or its app is not a BrokerApp.
    """
    from celery.app.utils import find_app as celery_find_app  # noqa: PLC0415 - not imported before it is needed

    from broker_app.errors import BrokerAppError  # noqa: PLC0415

    if "" not in sys.path:
        sys.path.insert(0, "")  # like `celery -A`: find projects in the current folder
    try:
        app = celery_find_app(name)
    except BrokerAppError:
        raise
    except Exception as error:
        raise click.UsageError(
            f"-A {name}: expected a module with an app, got: {described(error)}{_folder_hint(error, name)}"
        ) from error
    return _check_app(app, name)


def _folder_hint(error: Exception, name: str) -> str:
    """Return a hint at the current folder if the module itself was not found, or another one of its name was."""
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    is_elsewhere = isinstance(error, AttributeError) or missing == name.partition(":")[0].partition(".")[0]
    return f"; run it in the project's folder (it ran in {Path.cwd()}), or correct -A" if is_elsewhere else ""


def described(error: Exception) -> str:
    """Return a user's error for one line: with its type, unless it comes from an import, whose text suffices."""
    return str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"


def _check_app(app: Any, name: str) -> BrokerApp:
    from broker_app.app import BrokerApp  # noqa: PLC0415 - as in `find_app`

    if not isinstance(app, BrokerApp):
        raise click.UsageError(
            f'-A {name}: expected a BrokerApp, got {type(app).__name__}; use app = BrokerApp("…")'
        )
    return app


_Function = TypeVar("_Function", bound=Callable[..., Any])


def pass_app(function: _Function) -> _Function:
    """Pass the app of ``broker-app -A`` or ``celery -A`` to a command as its first argument."""

    @click.pass_context
    @functools.wraps(function)
    def wrapper(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(function, _app_of(ctx), *args, **kwargs)

    return wrapper  # type: ignore[return-value]  # click's decorators keep the signature but not the type


def pass_app_or_remains(function: _Function) -> _Function:
    """Pass the app to a command that also works without valid settings, like `pass_app`.

    If the app fails to load or its settings are invalid, print why and use the settings that are still readable.
    """

    @click.pass_context
    @functools.wraps(function)
    def wrapper(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(function, _app_or_remains(ctx), *args, **kwargs)

    return wrapper  # type: ignore[return-value]  # as above


def _app_or_remains(ctx: click.Context) -> BrokerApp:
    from broker_app.cli.failures import problems_of  # noqa: PLC0415 - as in `find_app`
    from broker_app.fleet.broken_app import remains_by_processes, remains_of  # noqa: PLC0415

    app: BrokerApp | None = None
    try:
        app = _app_of(ctx)
        app.settings  # noqa: B018 - read them now
    except Exception as error:  # a user's module may raise anything
        remains = remains_of(app) if app else remains_by_processes(app_name(ctx))
        if remains is None:
            raise
        for problem in problems_of(error):
            echo(f"broker-app: {problem}", err=True)
        folder = remains.settings.state_dir
        echo(f"broker-app: continuing with the readable settings: the state folder is {folder}", err=True)
        return remains
    return app


def app_name(ctx: click.Context) -> str:
    """Return the ``-A`` argument for workers."""
    given = _given_app(ctx)
    return given if isinstance(given, str) else str(given.main)


def _app_of(ctx: click.Context) -> BrokerApp:
    if isinstance(ctx.obj, CliContext):
        return ctx.obj.app()
    given = _given_app(ctx)
    return find_app(given) if isinstance(given, str) else _check_app(given, given.main)


def _given_app(ctx: click.Context) -> str | Celery:
    """Return the ``-A`` of broker-app or of celery; after `Celery.start` the latter is an app object."""
    if isinstance(ctx.obj, CliContext):
        return ctx.obj.app_name
    given: str | Celery | None = ctx.find_root().params.get("app")
    return given or "broker_app"
