"""The fixtures of all tests: one broker for the run, a virtual host for each module, a clean environment.

Four variables choose the broker. Without any it is a container of the product's own image, or what `find_broker`
finds next; a missing broker is a failure. The last lines of a run say which one it was.

    TEST_RABBITMQ_IMAGE=rabbitmq:4.0-management   a container of this image, and nothing else
    TEST_BROKER=private                           a private node, without Docker
    BROKER_APP_BROKER_URL=amqp://…                this one; its user needs the tag administrator
    BROKER_APP_MANAGEMENT_URL=http://…            its management API, if it is not on port 15672
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lean_celery
import pytest
from brokers import Management, virtual_host
from celery import _state
from celery.app import builtins
from containers import name_run, remove_left
from hypothesis import settings as hypothesis_settings
from leftovers import RunMark
from quarantine import RERUNS, headlines, reason_for

from broker_app.local_broker import DEFAULT_IMAGE, BrokerSource, FoundBroker, end_leftovers, find_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

hypothesis_settings.register_profile("tests", deadline=None)  # a shared machine may be slow at any moment
hypothesis_settings.register_profile("measured", deadline=None, max_examples=10)

_IS_MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether coverage traces the tests, which takes several times as long."""

hypothesis_settings.load_profile("measured" if _IS_MEASURED else "tests")

_LIMIT_SECONDS = {"unit": 120, "integration": 300, "acceptance": 480, "chaos": 480, "ecosystem": 300}
"""When a test of this kind hangs for certain, on a busy machine too; a marker may give it more time."""
_SLOWEST_FIRST = ("chaos", "acceptance", "ecosystem", "integration", "unit")
_OURS = "BROKER_APP_"
_CHOICES = ("TEST_RABBITMQ_IMAGE", "TEST_BROKER")
_BUILT_IN = {shares for shares in _state._on_app_finalizers if shares.__module__ == builtins.__name__}
_KEY_CHOICES = pytest.StashKey[dict[str, str]]()
_KEY_MARK = pytest.StashKey[RunMark]()
_KEY_HOW = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Take the settings of this run out of the environment, for the tests' own processes too."""
    worker = getattr(config, "workerinput", None)
    names = [name for name in os.environ if name.startswith((_OURS, *_CHOICES))]
    chosen = {name: os.environ.pop(name) for name in names}
    config.stash[_KEY_CHOICES] = chosen if worker is None else worker["choices"]
    config.stash[_KEY_MARK] = RunMark.set()
    config.pluginmanager.import_plugin("watchdog")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell does for a background job
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what we start must hear of Ctrl-C
    if worker is None:
        name_run()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that fixtures end what they have started


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the settings of this run to a process that runs a part of the tests (pytest-xdist)."""
    node.workerinput["choices"] = node.config.stash[_KEY_CHOICES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what such a process found left running, and which broker it had."""
    del error
    told = getattr(node, "workeroutput", {})
    node.config.stash[_KEY_MARK].found += told.get("left", [])
    node.config.stash[_KEY_HOW] = told.get("how") or node.config.stash.get(_KEY_HOW, None)


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Say what a run of everything takes and starts, where a person sees nothing but dots for minutes."""
    if hasattr(config, "workerinput") or config.args != config.getini("testpaths"):
        return None
    takes = (
        "the whole suite: about half an hour on two cores; it starts a RabbitMQ (a container or a private node), "
        "workers and proxies, and ends them; `make unit` needs no broker"
    )
    return [takes, *headlines()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that no process is left alone with one at the end; limit each test's time."""
    items.sort(key=lambda item: next((at for at, kind in enumerate(_SLOWEST_FIRST) if kind in item.path.parts), 0))
    for item in items:
        _limit(item)
        if reason_for(item.nodeid):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS))


def _limit(item: pytest.Item) -> None:
    limit = next((seconds for kind, seconds in _LIMIT_SECONDS.items() if kind in item.path.parts), 0)
    limit *= 5 if _IS_MEASURED else 1
    marker = item.get_closest_marker("timeout")
    if marker is None or marker.args[0] < limit:
        item.add_marker(pytest.mark.timeout(limit), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keep the tasks of earlier tests out of a test's app: Celery shares a task with every later app."""
    _state._on_app_finalizers = set(_BUILT_IN)


def _broker_folder(config: pytest.Config) -> Path:
    """Return the folder of the runs' brokers: the same for each run, which ends what a killed one has left."""
    return config.rootpath / ".state" / "tests"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process that it started is still there, and end that process."""
    mark = session.config.stash[_KEY_MARK]
    if mark.end_leftovers() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = mark.found
        session.config.workeroutput["how"] = session.config.stash.get(_KEY_HOW, None)
    elif session.exitstatus == pytest.ExitCode.INTERRUPTED:  # pytest-xdist kills its processes with their fixtures
        end_leftovers(_broker_folder(session.config))
        remove_left()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which broker it was, and which processes were left."""
    if how := config.stash.get(_KEY_HOW, None):
        terminalreporter.write_line(f"broker: {how}")
    for line in config.stash[_KEY_MARK].found:
        terminalreporter.write_line(f"FAILED left running: {line}", red=True)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[FoundBroker]:
    """Return the broker of the run."""
    chosen = pytestconfig.stash[_KEY_CHOICES]
    image = chosen.get("TEST_RABBITMQ_IMAGE")
    ways = tuple(BrokerSource)
    if chosen.get("TEST_BROKER") == "private":
        ways = (BrokerSource.INSTALLED,)
    elif image is not None:
        ways = (BrokerSource.CONTAINER,)  # another version in its place would prove nothing
    with find_broker(
        _broker_folder(pytestconfig),
        url=chosen.get("BROKER_APP_BROKER_URL"),
        management_url=chosen.get("BROKER_APP_MANAGEMENT_URL"),
        image=image or DEFAULT_IMAGE,
        ways=ways,
    ) as found:
        pytestconfig.stash[_KEY_HOW] = f"{found.how}, RabbitMQ {found.version}"
        yield found


@pytest.fixture(scope="session")
def broker_version(broker: FoundBroker) -> tuple[int, ...]:
    """Return the broker's version, such as ``(4, 3, 6)``."""
    return tuple(int(part) for part in broker.version.split(".") if part.isdecimal())


@pytest.fixture(scope="session")
def management(broker: FoundBroker) -> Management:
    """Return the management API of the broker."""
    return Management.of(broker.url, broker.management_url)


@pytest.fixture(scope="module", autouse=True)
def lean_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let workers and commands start faster; unit tests look at imports, and a test of Flower needs it."""
    with pytest.MonkeyPatch.context() as patch:
        if "unit" not in request.path.parts:
            patch.setenv(lean_celery.VARIABLE, lean_celery.python_path())
        yield


@pytest.fixture(scope="module")
def vhost_url(broker: FoundBroker, management: Management, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a virtual host that the tests of one module share."""
    with virtual_host(management, broker.url, Path(request.path).stem) as url:
        yield url


@pytest.fixture
def fresh_vhost_url(broker: FoundBroker, management: Management, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a virtual host that this test has for itself."""
    with virtual_host(management, broker.url, Path(request.path).stem) as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the processes of wider fixtures from using the default state folder in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a default state folder of its own, and no setting from outside."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
