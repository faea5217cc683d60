"""Seam check: looks for the private parts of other packages that `broker_app.celery_integration.seams` lists."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from inspect import unwrap
from itertools import chain
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OURS = "broker-app"
_PYTHON = "Python"
_PACKAGES = {"asyncio": _PYTHON, "concurrent": _PYTHON, "prometheus_client": "prometheus-client"}
"""Packages by their import names, where the two differ."""


@dataclass(frozen=True)
class Part:
    """A part of another package.

    Attributes:
        target: The module, class or function, as ``module:qualified.name``.
        names: What it must have: a module or class these attributes; a function these names in its code, as
            parameters, attributes or texts. An attribute that an instance gets in a method is looked for there.
    """

    target: str
    names: tuple[str, ...]

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.target.partition(":")[0]

    @property
    def package(self) -> str:
        """The name of the package that is installed, or Python."""
        root = self.module.partition(".")[0]
        return _PACKAGES.get(root, root)

    def missing(self) -> tuple[str, ...]:
        """Return the names that are missing; all of them if the target itself is.

        A function that a third package has replaced, as Sentry's does, hides its names: nothing is missing then.
        """
        try:
            target = _resolve(self.target)
        except (ImportError, AttributeError):
            return self.names
        code = getattr(target, "__code__", None)
        if _is_replaced(target, self.module):
            return ()
        if code is None:
            return tuple(name for name in self.names if not hasattr(target, name))
        known = set(_names_in(code))
        return tuple(name for name in self.names if name not in known)


@dataclass(frozen=True)
class Seam:
    """One use of other packages' parts.

    Attributes:
        used_in: The module of `broker_app` that uses them.
        why: What it is good for.
        parts: The parts.
    """

    used_in: str
    why: str
    parts: tuple[Part, ...]


def broken_seams(seams: Iterable[Seam], package: str | None = None) -> list[str]:
    """Return a line for each part that is missing; modules that this process has not loaded are not looked at.

    Args:
        seams: The seams.
        package: The package to look at; None for all.
    """
    return [
        _line(seam, part, missing)
        for seam in seams
        for part in seam.parts
        if package in (None, part.package) and part.module in sys.modules and (missing := part.missing())
    ]


def _line(seam: Seam, part: Part, missing: tuple[str, ...]) -> str:
    installed = f"{part.package} {_version(part.package)}"
    needed = f"{part.target} with {', '.join(missing)}, which {_OURS} needs in {seam.used_in}"
    return f"{installed}: expected {needed}; install {_required(part.package)}"


def _resolve(target: str) -> Any:
    module, _, path = target.partition(":")
    found: Any = import_module(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return unwrap(getattr(found, "fget", None) or getattr(found, "func", None) or found)  # a property's function


def _is_replaced(target: Any, module: str) -> bool:
    """Return whether a function is not of the package that it was found in."""
    if isinstance(target, type) or not callable(target):
        return False
    of = str(getattr(target, "__module__", None))
    return of.partition(".")[0] != module.partition(".")[0] or not hasattr(target, "__code__")


def _names_in(code: CodeType) -> Iterator[str]:
    """Return all names and texts in a function's code and in the functions inside it."""
    yield from chain(code.co_names, code.co_varnames, code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):  # the names of keyword arguments
            yield from (name for name in constant if isinstance(name, str))
        elif isinstance(constant, CodeType):
            yield constant.co_name
            yield from _names_in(constant)


def _version(package: str) -> str:
    return sys.version.partition(" ")[0] if package == _PYTHON else metadata.version(package)


def _required(package: str) -> str:
    """Return the versions that we are tested with."""
    if package == _PYTHON:
        return f"{_PYTHON} {metadata.metadata(_OURS)['Requires-Python']}, not newer than its classifiers name"
    for requirement in metadata.requires(_OURS) or ():
        if requirement.startswith(package) and "extra ==" not in requirement:
            return requirement
    return f"another version of {package}"
