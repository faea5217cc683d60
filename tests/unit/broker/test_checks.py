"""The judgements of `broker-app check` that need no broker."""

from __future__ import annotations

import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from broker_app import BrokerApp
from broker_app.broker.checks import _judge_inventory, _judge_rights, _judge_run, _judge_version, judge_settings
from broker_app.broker.findings import Finding, Level
from broker_app.broker.inventory import InventoryItem
from broker_app.broker.management import Management
from broker_app.broker.permission_probe import MissingPermission, listed
from broker_app.broker.policies import judge_cluster
from broker_app.errors import BrokerError, NotOnBroker
from broker_app.queues.rabbitmq import DEFAULT_CONSUMER_TIMEOUT_SECONDS
from broker_app.results.check import judge_store
from broker_app.settings import FleetSettings, QueueSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65_534
ALIKE = InventoryItem("queue", "lopri", is_missing=False, may_declare=True)
MISSING = InventoryItem("queue", "urgent", is_missing=True, may_declare=True)
UNKNOWN = InventoryItem("queue", "secret", is_missing=False, may_declare=False)
DIFFERENT = InventoryItem(
    "queue", "default", is_missing=False, may_declare=True, fault="inequivalent arg 'x-queue-type'"
)


class Answers(BaseHTTPRequestHandler):
    """A management API of a few answers; it notes what was asked."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        """Answer by the queue's name."""
        self.asked.append((self.path, self.headers["Authorization"]))
        name = self.path.rpartition("/")[2]
        status, body = {
            "lopri": (200, b'{"effective_policy_definition": {"consumer-timeout": 60000}}'),
            "bare": (200, b'{"effective_policy_definition": []}'),
            "words": (200, b"hello"),
            "list": (200, b"[]"),
            "moved": (302, b""),
            "gone": (404, b"{}"),
        }.get(name, (401, b"{}"))
        self.send_response(status)
        self.send_header("Location", "/api/queues/%2F/lopri")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[str]:
    """Return the URL of that API."""
    Answers.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_finding_is_a_line() -> None:
    """A finding reads: level, where, what was found."""
    assert str(Finding(Level.OK, "version", "RabbitMQ 4.3.6")) == "ok       version: RabbitMQ 4.3.6"
    assert str(Finding(Level.ERROR, "broker", "gone")) == "error    broker: gone"


# Settings


def test_a_state_folder_that_can_be_made_is_fine(tmp_path: Path) -> None:
    """A state folder need not be there, and judging does not make it."""
    folder = tmp_path / "a" / "b"
    assert [finding.level for finding in judge_settings(Settings(state_dir=folder))] == [Level.OK]
    assert not folder.parent.exists()


def test_a_state_folder_below_a_file_is_an_error(tmp_path: Path) -> None:
    """The error for a state folder that is not writable names it."""
    (tmp_path / "file").touch()
    *_, finding = judge_settings(Settings(state_dir=tmp_path / "file" / "state"))
    assert finding.level is Level.ERROR
    assert finding.where == "state_dir"
    assert str(tmp_path / "file" / "state") in finding.text


def test_a_state_folder_without_the_right_to_write_is_an_error(tmp_path: Path) -> None:
    """A state folder in a folder that may not be written, or not even be looked into, is an error."""
    tmp_path.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        *_, finding = judge_settings(Settings(state_dir=tmp_path / "state"))
    finally:
        if is_root:
            os.seteuid(0)
    assert finding.level is Level.ERROR


@pytest.mark.parametrize("mode", [0o1777, 0o770])
def test_a_state_folder_that_others_may_write_to_is_a_warning(tmp_path: Path, mode: int) -> None:
    """`check` tells what `fleet start` would refuse."""
    tmp_path.chmod(mode)
    _, finding = judge_settings(Settings(state_dir=tmp_path))
    assert (finding.level, finding.where) == (Level.WARNING, "state_dir")
    assert f"{mode:04o}" in finding.text


# The broker's version


@pytest.mark.parametrize(
    ("product", "version", "level"),
    [
        ("RabbitMQ", (4, 3, 6), Level.OK),
        ("RabbitMQ", (3, 10, 0), Level.OK),
        ("RabbitMQ", (3, 9, 29), Level.ERROR),
        ("RabbitMQ", (0,), Level.ERROR),
        ("LavinMQ", (2, 1, 0), Level.WARNING),
    ],
)
def test_version(product: str, version: tuple[int, ...], level: Level) -> None:
    """RabbitMQ from 3.10 on is fine; what is older is an error, what is no RabbitMQ a warning."""
    assert _judge_version(product, version).level is level


# The broker's entities


def test_what_is_alike_is_counted() -> None:
    """All is well: one line."""
    assert [str(finding) for finding in _judge_inventory([ALIKE])] == [
        "ok       topology: 1 of 1 exchanges and queues match the settings"
    ]


def test_each_difference_is_an_error() -> None:
    """A queue with other arguments is an error with the broker's words, whatever else is fine."""
    error, ok = _judge_inventory([ALIKE, DIFFERENT])
    assert (error.level, error.where) == (Level.ERROR, "queue 'default'")
    assert "inequivalent arg 'x-queue-type'" in error.text
    assert ok.level is Level.OK


def test_what_is_missing_is_no_error() -> None:
    """Queues that are not declared yet are a warning that says who declares them."""
    warning, ok = _judge_inventory([MISSING, ALIKE])
    assert (warning.level, ok.level) == (Level.WARNING, Level.OK)
    assert "not declared yet: queue 'urgent'; run `broker-app topology declare`" in warning.text
    [nothing] = _judge_inventory([MISSING])
    assert "not declared yet: all of it" in nothing.text


def test_what_cannot_be_compared_is_said() -> None:
    """A queue that the user may not declare is not called alike."""
    [warning] = _judge_inventory([UNKNOWN])
    assert warning.level is Level.WARNING
    assert "queue 'secret'" in warning.text


def test_long_lists_are_cut() -> None:
    """A line names the first few, and how many more there are."""
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(8)]) == "0, 1, 2, 3, 4, 5 and 2 more"


# Rights


@pytest.mark.parametrize(
    ("is_for_all", "nodes", "level"),
    [(True, 0, Level.ERROR), (False, 1, Level.ERROR), (False, 0, Level.WARNING)],
)
def test_a_missing_right(is_for_all: bool, nodes: int, level: Level) -> None:  # noqa: FBT001 - a table of cases
    """A right that only workers need is an error where the settings run workers, else a warning."""
    settings = Settings(queues={"default": QueueSettings(fleet=FleetSettings(nodes=nodes))})
    [finding] = _judge_rights(
        settings, [MissingPermission("consume queue 'default'", "read on it", is_for_all=is_for_all)]
    )
    assert finding.level is level
    assert finding.text == "the user may not consume queue 'default'; grant read on it"


def test_no_missing_right() -> None:
    """Nothing is missing: one line says so."""
    assert [finding.level for finding in _judge_rights(Settings(), [])] == [Level.OK]


# The consumer time-out


@pytest.mark.parametrize(
    ("run", "prefetch", "policy", "level"),
    [
        (900, 1, None, Level.OK),
        (DEFAULT_CONSUMER_TIMEOUT_SECONDS, 1, None, Level.WARNING),
        (900, 2, None, Level.WARNING),
        (900, 1, 900_000, Level.ERROR),
        (900, 1, 900_001, Level.OK),
        (7_200, 1, 10_000_000, Level.OK),
    ],
)
def test_longest_run(run: float, prefetch: int, policy: int | None, level: Level) -> None:
    """A slot's reserved runs together must be below the time-out: else an error, or a warning where assumed."""
    queue = QueueSettings(longest_run_seconds=run, prefetch=prefetch)
    finding = _judge_run("lopri", queue, policy)
    assert (finding.level, finding.where) == (level, "queues.lopri")
    assert ("assumed" in finding.text) is (policy is None)


# The management API


@pytest.mark.parametrize(
    ("broker_url", "url", "place"),
    [
        ("amqp://u:p@mq.example:5679/v", None, "http://mq.example:15672"),
        ("amqps://u:p@mq.example/v", None, "https://mq.example:15671"),
        ("amqp://u:p@[::1]:5672//", None, "http://[::1]:15672"),
        ("amqps://u:p@mq.example/v", "https://u2:p2@api.example:1/x/", "https://api.example:1/x"),
        ("amqp://u:p@mq.example/v", "http://api.example:1/x/api/", "http://api.example:1/x"),
    ],
)
def test_where_the_api_is(broker_url: str, url: str | None, place: str) -> None:
    """The API is on the broker's host, over TLS if the broker is, or where it was said; no password is shown."""
    assert Management(broker_url, url).url == place


def test_policies_are_read(api: str) -> None:
    """A queue's effective policy comes back, one without any is empty; name, host and password are encoded."""
    management = Management("amqp://u%40x:p%2F@127.0.0.1/a%2Fb", api)
    assert management.effective_policy("lopri") == {"consumer-timeout": 60_000}
    assert management.effective_policy("bare") == {}
    assert Answers.asked[0] == ("/api/queues/a%2Fb/lopri", "Basic dUB4OnAv")


def test_the_login_of_its_own_url_wins(api: str) -> None:
    """A user and password in management_url are used instead of the broker's."""
    Management("amqp://u:p@127.0.0.1//", api.replace("//", "//me:s3@")).effective_policy("lopri")
    assert Answers.asked == [("/api/queues/%2F/lopri", "Basic bWU6czM=")]


@pytest.mark.parametrize(
    ("queue", "words"),
    [("words", "no answer"), ("list", "expected an object"), ("moved", "got 302"), ("other", "got 401")],
)
def test_strange_answers_are_one_error(api: str, queue: str, words: str) -> None:
    """No access, no JSON, or a redirection (which would carry the password elsewhere) is one clear error."""
    with pytest.raises(BrokerError, match=words) as caught:
        Management("amqp://u:p@127.0.0.1//", api).effective_policy(queue)
    assert len(Answers.asked) == 1
    assert api in str(caught.value)


def test_a_queue_that_is_not_there_is_told_apart(api: str) -> None:
    """404 is no failure of the API."""
    with pytest.raises(NotOnBroker):
        Management("amqp://u:p@127.0.0.1//", api).effective_policy("gone")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", f"file://{Path(__file__).parent}"])
def test_no_api(url: str) -> None:
    """An API that does not answer, or an invalid URL, is one clear error."""
    with pytest.raises(BrokerError):
        Management("amqp://u:p@127.0.0.1//", url).effective_policy("lopri")


# Versions whose lanes can stall


@pytest.mark.parametrize(
    ("version", "members", "levels"),
    [
        ((4, 3, 0), 3, [Level.ERROR]),
        ((4, 3, 2), 3, [Level.ERROR]),
        ((4, 3, 2), 1, []),
        ((4, 3, 3), 3, []),
        ((4, 2, 9), 3, []),
    ],
)
def test_lanes_on_a_cluster(version: tuple[int, ...], members: int, levels: list[Level]) -> None:
    """RabbitMQ 4.3.0 to 4.3.2 with lanes that have several members is an error."""
    lanes = {"delay.1m": {"members": [f"rabbit@{number}" for number in range(members)]}}
    assert [finding.level for finding in judge_cluster(version, lanes)] == levels


# Settings that cannot work


def test_a_percent_sign_in_the_state_folder(tmp_path: Path) -> None:
    """`celery multi` would replace it: an error where the settings run workers."""
    fleets = [QueueSettings(fleet=FleetSettings(nodes=nodes)) for nodes in (1, 0)]
    found = [list(judge_settings(Settings(state_dir=tmp_path / "a%n", queues={"default": it}))) for it in fleets]
    errors = [[finding.where for finding in each if finding.level is Level.ERROR] for each in found]
    assert errors == [["state_dir"], []]


def test_the_file_of_results_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite is shared by one host, one user and one state folder: the line has the path and the user."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    app = BrokerApp("checked", set_as_current=False)
    [finding] = judge_store(app)
    assert finding.level is Level.OK
    assert f"{tmp_path}/results.sqlite3" in finding.text


@pytest.mark.parametrize("fault", ["results.sqlite3", "results.sqlite3-wal", "no database"])
def test_a_file_of_results_that_cannot_be_used_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A folder in its place or in that of its log, and a file of another kind, are named; nothing is created."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    file = tmp_path / "results.sqlite3"
    if fault == "no database":
        file.write_text("not a database, but long enough")
    else:
        (tmp_path / fault).mkdir()
    before = list(tmp_path.iterdir())
    [finding] = judge_store(BrokerApp("checked", set_as_current=False))
    assert finding.level is Level.ERROR
    assert str(before[0]) in finding.text
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [".", "results.sqlite3", "results.sqlite3-shm"])
def test_results_that_this_user_may_not_write_are_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file, its log and its folder must be writable: SQLite keeps its log beside the file."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # its parents are open to all users
        monkeypatch.setenv("BROKER_APP_STATE_DIR", folder)
        app = BrokerApp("checked", set_as_current=False)
        assert app.backend
        closed = Path(folder, name)
        closed.touch()
        closed.chmod(0o500)
        if is_root:
            for one in (folder, closed):
                os.chown(one, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            [finding] = judge_store(app)
        finally:
            if is_root:
                os.seteuid(0)
            closed.chmod(0o700)
    assert finding.level is Level.ERROR
    assert str(closed) in finding.text
