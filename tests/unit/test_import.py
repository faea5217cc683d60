"""Importing the packages does nothing: the program that imports them decides when a file or a socket is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

WATCHED = """
import json, os, sys, sysconfig
import {before}
seen = []
libraries = {{os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())}}
watched = ("socket.connect", "socket.bind", "socket.getaddrinfo", "os.mkdir", "subprocess", "os.fork")

def is_code(path):
    path = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
    return path.endswith((".py", ".pyc", ".so")) or any(path.startswith(folder + os.sep) for folder in libraries)

def hook(event, arguments):
    if event.startswith(watched) or (event == "open" and not is_code(arguments[0])):
        seen.append([event, repr(arguments)])

class Environment(type(os.environ)):
    def __getitem__(self, name):
        if name.startswith(("BROKER_APP_", "XDG_")) or name == "HOME":
            seen.append(["environment", name])
        return super().__getitem__(name)

os.environ.__class__ = Environment
sys.addaudithook(hook)
import {module}
found = {{"seen": list(seen), "modules": sorted(sys.modules)}}
{after}
sys.stdout.write(json.dumps(found))
"""

USE_AN_APP = """
from broker_app import BrokerApp, errors
mine = BrokerApp("mine", include=["nowhere.tasks"])
found["seen_by_an_app"] = list(seen)
try:
    mine.conf.broker_url
except errors.SettingsError as error:
    found["problems"] = error.problems
found["seen_when_used"] = list(seen)
"""


@dataclass(frozen=True)
class Imported:
    """The effects of an import: files touched, modules loaded, and the folder that it ran in."""

    found: dict[str, list[Any]]
    files: list[str]


ALONE = (
    "types; sys.modules['broker_app'] = package = types.ModuleType('broker_app'); package.__path__ = [{path!r}]"
)


def _import(module: str, folder: Path, before: str = "os", after: str = "") -> Imported:
    """Import a module in a new process, in a folder with a settings file that is invalid."""
    (folder / "config").mkdir()
    (folder / "config" / "broker.toml").write_text("not = toml = at all\n", encoding="utf-8")
    script = WATCHED.format(module=module, before=before, after=after)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=110, check=True
    )
    return Imported(json.loads(result.stdout), sorted(path.name for path in folder.rglob("*")))


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Import `broker_app.queues` alone: without what `broker_app` itself imports."""
    before = ALONE.format(path=str(ROOT / "broker_app"))
    return _import("broker_app.queues", tmp_path_factory.mktemp("queues"), before=before)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Import the app and its tasks; what Celery reads when it is imported itself is not ours."""
    libraries = "celery, celery.app.amqp, celery.app.control, celery.worker.state, pydantic_settings"
    return _import("broker_app.tasks", tmp_path_factory.mktemp("app"), before=libraries, after=USE_AN_APP)


def test_importing_the_definitions_touches_nothing(definitions: Imported) -> None:
    """No socket, no file but code, no folder, no process, and no look at the environment's settings."""
    assert definitions.found["seen"] == []
    assert definitions.files == ["broker.toml", "config"]


def test_importing_the_app_touches_nothing(app: Imported) -> None:
    """Nor does the app with its tasks: an invalid settings file does not break an import."""
    assert app.found["seen"] == []
    assert app.files == ["broker.toml", "config"]


def test_the_definitions_know_neither_celery_nor_pika(definitions: Imported) -> None:
    """`queues` is pure: who wants only the values loads no worker and no client."""
    assert not set(definitions.found["modules"]) & {"celery", "pika", "broker_app.app", "pydantic", "sqlalchemy"}


def test_a_producer_loads_no_more_than_it_needs(app: Imported) -> None:
    """Importing the tasks imports neither the fleets, the demo, the command line, pika nor the result store's."""
    modules = set(app.found["modules"])
    heavy = {"pika", "sqlalchemy", "rich", "gevent"}
    assert not modules & heavy.union({"broker_app.demo", "broker_app.fleet", "broker_app.cli"})


def test_making_an_app_reads_nothing_and_using_it_does(app: Imported) -> None:
    """The settings are read once the app is asked for one; a broken file is one error then."""
    assert app.found["seen_by_an_app"] == []
    assert len(app.found["problems"]) == 1
    assert any("broker.toml" in str(event) for event in app.found["seen_when_used"])
    assert ["environment", "BROKER_APP_CONFIG"] in app.found["seen_when_used"]


def test_a_project_may_have_a_module_queues_of_its_own(tmp_path: Path) -> None:
    """The product owns the import name `broker_app` and no other: a project's `queues.py` is the project's."""
    (tmp_path / "queues.py").write_text("MINE = True\n", encoding="utf-8")
    script = "from broker_app.tasks import add; import queues; assert queues.MINE; print(add.name)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True
    )
    assert result.stdout == "broker_app.tasks.add\n"
