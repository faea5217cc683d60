"""Optional dependencies: if a setting needs a missing package, the error names the command that installs it."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from celery.exceptions import ImproperlyConfigured

from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTRAS = {
    "redis": "redis",
    "rediss": "redis",
    "sentinel": "redis",
    "postgresql+psycopg": "postgresql",
    "gevent": "gevent",
    "asyncio": "asyncio",
}
"""Extra by what needs it: the scheme of a result URL without ``db+``, or a pool."""

_POOL_PACKAGES = {"gevent": "gevent", "asyncio": "greenlet"}


@contextmanager
def loading_store(url: str) -> Iterator[None]:
    """Turn an import error of a result store into a `SettingsError` that names the missing package.

    Args:
        url: The store's URL; only the scheme is used.

    Raises:
        SettingsError: A package is missing, or no store has this scheme.
    """
    try:
        yield
    except (ImportError, ImproperlyConfigured) as error:
        with shown_in_one_line():
            raise SettingsError([f"result_url: {_missing(url, error)}"]) from error


def missing_pool(pool: str) -> str:
    """Return a message that says what to install for a pool; empty if nothing is missing."""
    package = _POOL_PACKAGES.get(pool)
    return "" if package is None or find_spec(package) else _cure(pool, package)


def _missing(url: str, error: Exception) -> str:
    scheme = url.partition("://")[0].rpartition(":DatabaseBackend+")[2].removeprefix("db+")
    if scheme in _EXTRAS:
        return _cure(f"{scheme}://", getattr(error, "name", None) or _EXTRAS[scheme])
    cure = "install the packages it needs, or set another URL"
    return f"the result backend for {scheme}:// cannot be loaded ({' '.join(str(error).split())}); {cure}"


def _cure(asked: str, package: str) -> str:
    extra = _EXTRAS[asked.removesuffix("://")]
    return f"{asked} needs the package {package}, which is not installed; run pip install 'broker-app[{extra}]'"
