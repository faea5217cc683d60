"""Seams: the private parts of other packages are as we need them, or a worker refuses to start."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import broker_app
from broker_app.celery_integration.seam_check import broken_seams
from broker_app.celery_integration.seams import SEAMS, refuse_broken_seams
from broker_app.errors import SettingsError
from broker_app.worker.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.celery_integration.seam_check import Part, Seam

RENAMED = {
    "a module's attribute": ("amqp.serialization", "PROPERTY_CLASSES", "amqp"),
    "a class's method": ("celery.worker.request:Request", "_announce_revoked", "celery"),
    "an attribute of instances": ("kombu.message:Message", "__init__", "kombu"),
    "a name in a function": ("celery.worker.request", "create_request_cls", "celery"),
    "a function": ("celery.apps.worker", "_shutdown_handler", "celery"),
    "billiard": ("billiard.common", "terminate_handler_fired", "billiard"),
    "Python": ("concurrent.futures.thread", "_worker", "Python"),
    "pika": ("pika.data", "decode_table", "pika"),
}
"""By the kind of seam: where, what is renamed, and whose it is."""


DOCUMENTED = {"_current_frames", "_fields"}
"""Names with an underscore that are public: of `sys` and of named tuples."""

PARTS = [part for seam in SEAMS for part in seam.parts]


@cache
def _nodes() -> list[ast.AST]:
    """Return all of our code."""
    files = [path for path in Path(broker_app.__file__).parent.rglob("*.py") if path.name != "seams.py"]
    return [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def _read(node: ast.AST) -> list[str]:
    """Return the names that a node takes from an object or a module."""
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    return [node.attr] if isinstance(node, ast.Attribute) else []


def _defined(node: ast.AST) -> str:
    """Return the name that a node defines: of a function, a class, a variable or an attribute of ``self``."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
        return node.attr
    return ""


def _private(names: Iterable[str]) -> set[str]:
    return {name for name in names if re.fullmatch(r"_[A-Za-z]\w*", name)}


def _is_function(part: Part) -> bool:
    """Return whether a part is a function, whose names are those that it uses itself."""
    name = part.target.rpartition(":")[2].rpartition(".")[2]
    return ":" in part.target and name != "__init__" and not name[0].isupper()


def found(target: str) -> Any:
    """Return the module or class that a seam's target names, imported."""
    module, _, name = target.partition(":")
    loaded = import_module(module)
    return getattr(loaded, name) if name else loaded


def rename(monkeypatch: pytest.MonkeyPatch, target: str, name: str) -> None:
    """Take an attribute away; a function that others refer to is replaced by one with other names in it."""
    if name in {"__init__", "create_request_cls"}:
        monkeypatch.setattr(found(target), name, other := lambda *_: None)
        monkeypatch.setattr(other, "__module__", target.partition(":")[0])
    else:
        monkeypatch.delattr(found(target), name)


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: f"{seam.used_in}, {seam.parts[0].target}")
def test_the_installed_versions_have_every_seam(seam: Seam) -> None:
    """Nothing that we build on is missing, and the module that builds on it exists."""
    for part in seam.parts:
        import_module(part.module)
    assert broken_seams([seam]) == []
    assert (Path(broker_app.__file__).parent / seam.used_in).is_file()


def test_every_private_name_that_is_used_is_listed() -> None:
    """A name with an underscore that is not our own is in the list, so that a worker notices when it is gone."""
    used = _private(name for node in _nodes() for name in _read(node))
    listed = {name for part in PARTS for name in (*part.names, re.split("[.:]", part.target)[-1])}
    assert used - {_defined(node) for node in _nodes()} - listed - DOCUMENTED == set()


def test_every_private_name_that_is_listed_is_used() -> None:
    """A name that only the list mentions would keep a worker from starting for nothing."""
    listed = _private(name for part in PARTS if not _is_function(part) for name in part.names)
    texts = {node.value for node in _nodes() if isinstance(node, ast.Constant)}
    assert listed - {name for node in _nodes() for name in (*_read(node), _defined(node))} - texts == set()


@pytest.mark.parametrize(("target", "name", "package"), RENAMED.values(), ids=RENAMED)
def test_a_renamed_seam_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, target: str, name: str, package: str
) -> None:
    """The line names the seam, the package with its version, and the versions to install."""
    rename(monkeypatch, target, name)
    with pytest.raises(SettingsError) as refusal:
        refuse_broken_seams(package)
    (line, *_) = refusal.value.problems
    assert target.partition(":")[0] in line
    assert line.startswith(f"{package} {'3.' if package == 'Python' else version(package)}")
    assert f"install {package}" in line
    assert "\n" not in line


def test_a_worker_with_a_broken_seam_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would run its tasks without counting them, or without giving them back."""
    rename(monkeypatch, "celery.worker.request:Request", "_announce_revoked")
    with pytest.raises(SettingsError, match="_announce_revoked"):
        Consumer(lambda _: None, app=None, pool=object())


@pytest.mark.parametrize("kind", ["function", "callable"])
def test_a_function_that_another_package_has_wrapped_is_accepted(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Sentry replaces `build_tracer`, for one: what it wraps cannot be looked at, and works."""
    trace = import_module("celery.app.trace")
    own = trace.build_tracer

    def wrapped(*args: Any, **options: Any) -> Any:
        """Stand for a wrapper that does not say what it wraps."""
        return own(*args, **options)

    monkeypatch.setattr(trace, "build_tracer", wrapped if kind == "function" else partial(own))
    refuse_broken_seams()


def test_modules_that_are_not_loaded_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with threads needs neither gevent nor pika."""
    rename(monkeypatch, "pika.data", "decode_table")
    monkeypatch.delitem(sys.modules, "pika.data")
    refuse_broken_seams("pika")
