"""`broker-app check --broker` against a real broker: what it finds, and that it changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from brokers import vhost_of
from click.testing import CliRunner
from ending import Process, joined
from proxy import TcpProxy
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.broker import ask, permission_probe
from broker_app.broker.access import connect
from broker_app.broker.checks import judge_broker
from broker_app.broker.declare import QueueState, declare_topology, queue_depth, queue_exists, queue_state
from broker_app.broker.findings import Finding, Level
from broker_app.cli import exit_codes
from broker_app.cli.check import check
from broker_app.cli.command import CliContext
from broker_app.queues import Names, work_topology
from broker_app.results.check import judge_reach, judge_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers import Management

QUEUES = "[queues.default]\n[queues.lopri]\n"
EVERYTHING, NOTHING = ".*", "^$"

pytestmark = pytest.mark.version


@pytest.fixture
def make_app(
    fresh_vhost_url: str, management: Management, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BrokerApp]:
    """Return what makes an app from settings, on a virtual host of the test's own."""

    def make(settings: str = QUEUES, url: str = fresh_vhost_url) -> BrokerApp:
        monkeypatch.setenv("BROKER_APP_BROKER_URL", url)
        monkeypatch.setenv("BROKER_APP_MANAGEMENT_URL", management.url)
        file = tmp_path / "broker.toml"
        file.write_text(settings)
        return BrokerApp("checked", config=file, set_as_current=False)

    return make


@contextmanager
def user(management: Management, vhost: str, **patterns: str) -> Iterator[str]:
    """Make a user with some rights, and yield what a URL's login must be."""
    name = f"check-{vhost}"
    management.put(f"users/{name}", {"password": "pw", "tags": ""})
    try:
        rights_given = {right: patterns.get(right, NOTHING) for right in ("configure", "write", "read")}
        management.put(f"permissions/{quote(vhost, safe='')}/{name}", rights_given)
        yield f"{name}:pw"
    finally:
        management.delete(f"users/{name}")


def login(url: str, name_and_password: str) -> str:
    """Return a URL with another login."""
    place = urlsplit(url)
    return urlunsplit(place._replace(netloc=f"{name_and_password}@{place.netloc.rpartition('@')[2]}"))


def declare(app: BrokerApp) -> None:
    """Declare exchanges and queues, without the delay lanes."""
    with connect(app) as connection:
        declare_topology(connection, work_topology(app.settings.specs(), app.settings.prefix))


def judge(app: BrokerApp) -> list[Finding]:
    """Return all findings on the broker."""
    return list(judge_broker(app))


def at(findings: list[Finding], level: Level) -> list[str]:
    """Return where findings of a level are, with their text."""
    return [f"{finding.where}: {finding.text}" for finding in findings if finding.level is level]


def standing(management: Management, vhost: str) -> dict[str, Any]:
    """Return all that a virtual host holds, without counts that change by themselves."""
    place = quote(vhost, safe="")
    return {
        "exchanges": sorted(item["name"] for item in management.get(f"exchanges/{place}")),
        "queues": {item["name"]: item.get("consumers") or 0 for item in management.get(f"queues/{place}")},
        "bindings": sorted(
            (b["source"], b["routing_key"], b["destination"]) for b in management.get(f"bindings/{place}")
        ),
    }


# The verdicts


def test_an_empty_broker_is_no_error(make_app: Callable[..., BrokerApp], management: Management) -> None:
    """On a virtual host without anything it says who declares it, finds no error, and declares nothing."""
    app = make_app()
    vhost = vhost_of(app.settings.broker_url.get_secret_value())
    before = standing(management, vhost)
    findings = judge(app)
    assert at(findings, Level.ERROR) == []
    assert ["not declared yet: all of it" in text for text in at(findings, Level.WARNING)] == [True]
    assert standing(management, vhost) == before


def test_a_declared_broker_is_fine(make_app: Callable[..., BrokerApp], broker_version: tuple[int, ...]) -> None:
    """A topology declared from the same settings passes, and the version is reported."""
    app = make_app(f"common_lanes = []\n{QUEUES}")
    declare(app)
    findings = judge(app)
    assert {finding.level for finding in findings} == {Level.OK}
    assert f"version: RabbitMQ {'.'.join(map(str, broker_version))}" in at(findings, Level.OK)


def test_nothing_is_changed(make_app: Callable[..., BrokerApp], management: Management) -> None:
    """Asking for rights publishes nothing, binds nothing and leaves no consumer, whatever the settings say."""
    app = make_app(f"common_lanes = []\n{QUEUES}")
    declare(app)
    vhost, names = vhost_of(app.settings.broker_url.get_secret_value()), Names()
    with connect(app) as connection, connection.channel() as channel:
        channel.queue_declare("tap", durable=True, auto_delete=False)
        for exchange in (names.tasks, names.delay, names.due):
            channel.queue_bind("tap", exchange, "#")
        before = standing(management, vhost)
        judge(app)
        assert queue_depth(connection, "tap") == 0
        assert [queue_depth(connection, spec.broker_name) for spec in app.settings.specs()] == [0, 0]
        assert [queue_state(connection, queue) for queue in ("default", "lopri")] == [QueueState(0, 0)] * 2
    wait_until(lambda: standing(management, vhost) == before, 30, "the same as before")


def test_a_queue_with_other_arguments_is_an_error(make_app: Callable[..., BrokerApp]) -> None:
    """A queue that stands otherwise is an error that names the argument; the other one is still fine."""
    declare(make_app('[queues.default]\n[queues.lopri]\ntype = "classic"\n'))
    app = make_app()
    findings = judge(app)
    errors = at(findings, Level.ERROR)
    assert len(errors) == 2  # lopri and lopri.dead
    assert errors[0].startswith("queue 'lopri.dead': inequivalent arg 'x-queue-type'")
    assert errors[1].startswith("queue 'lopri': inequivalent arg 'x-queue-type'")
    assert "drain and delete it" in errors[1]


def test_an_exchange_of_another_type_is_an_error(make_app: Callable[..., BrokerApp]) -> None:
    """An exchange that stands otherwise is an error too."""
    app = make_app()
    with connect(app) as connection, connection.channel() as channel:
        channel.exchange_declare("tasks", "direct", durable=True, auto_delete=False)
    [error] = at(judge(app), Level.ERROR)
    assert error.startswith("exchange 'tasks': inequivalent arg 'type'")


def test_priorities_need_a_version(make_app: Callable[..., BrokerApp], broker_version: tuple[int, ...]) -> None:
    """Priorities on a quorum queue are an error before RabbitMQ 4.3 and none from there on."""
    errors = at(judge(make_app("[queues.default]\npriorities = true\n")), Level.ERROR)
    if broker_version >= (4, 3):
        assert errors == []
    else:
        [error] = errors
        assert error.startswith("queues.default: priorities on a quorum queue need RabbitMQ 4.3, the broker is ")


def test_a_classic_queue_has_priorities_everywhere(make_app: Callable[..., BrokerApp]) -> None:
    """Priorities on a classic queue are fine on every version."""
    app = make_app('common_lanes = []\n[queues.default]\ntype = "classic"\npriorities = true\n')
    declare(app)
    assert {finding.level for finding in judge(app)} == {Level.OK}


# Rights


def test_a_user_without_rights(make_app: Callable[..., BrokerApp], management: Management) -> None:
    """Each missing right is an error that names what is refused and what to grant."""
    app = make_app()
    declare(app)
    url = app.settings.broker_url.get_secret_value()
    with user(management, vhost_of(url)) as name:
        errors = at(judge(make_app(url=login(url, name))), Level.ERROR)
    verbs = [error.removeprefix("rights: the user may not ").split()[0] for error in errors]
    assert verbs == ["declare", "bind", "publish", "report", "consume", "declare"]
    assert "grant read on them" in errors[4]
    assert f"{socket.gethostname()}.celery.pidbox" in errors[5]


def test_a_user_of_its_own_prefix(make_app: Callable[..., BrokerApp], management: Management) -> None:
    """Rights on a prefix are enough for it but for the mailboxes, which start with the worker's name."""
    settings = f'prefix = "shop."\n{QUEUES}'
    url = make_app().settings.broker_url.get_secret_value()
    everything = dict.fromkeys(("configure", "write", "read"), r"^shop\.")
    with user(management, vhost_of(url), **everything) as name:
        [error] = at(judge(make_app(settings, login(url, name))), Level.ERROR)
    assert "celery.pidbox" in error
    wider = dict.fromkeys(("configure", "write", "read"), r"^shop\.|\.pidbox$|^celeryev")
    with user(management, vhost_of(url), **wider) as name:
        assert at(judge(make_app(settings, login(url, name))), Level.ERROR) == []


def test_a_producer_is_enough_where_no_fleet_runs(
    make_app: Callable[..., BrokerApp], management: Management
) -> None:
    """A user with only the right to publish has no error once all is declared and the settings run no workers."""
    settings = "common_lanes = []\n[queues.default]\n[queues.default.fleet]\nnodes = 0\n"
    app = make_app(settings)
    declare(app)
    url = app.settings.broker_url.get_secret_value()
    with user(management, vhost_of(url), write="^(tasks|delay)$") as name:
        findings = judge(make_app(settings, login(url, name)))
    assert at(findings, Level.ERROR) == []
    assert any("not comparable" in text for text in at(findings, Level.WARNING))


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("granted", ["configure", "write", "read"])
def test_each_question_is_about_its_right(
    make_app: Callable[..., BrokerApp],
    management: Management,
    granted: str,
    is_there: bool,  # noqa: FBT001 - cases
) -> None:
    """With one right, only its questions are answered with yes, for existing and missing queues."""
    app = make_app()
    wanted = work_topology(app.settings.specs(), "")
    if is_there:
        declare(app)
    url = app.settings.broker_url.get_secret_value()
    with (
        user(management, vhost_of(url), **{granted: EVERYTHING}) as name,
        connect(make_app(url=login(url, name))) as connection,
    ):
        answers = {
            "configure": permission_probe.may_declare_exchange(connection, wanted.exchanges[0]),
            "write": permission_probe.may_publish(connection, "tasks", "lopri"),
            "read": permission_probe.may_consume(connection, "lopri"),
        }
        assert answers == {right: right == granted for right in answers}
        # these need more than one right
        assert not permission_probe.may_bind_queue(connection, wanted.queue_bindings[0])
        assert not permission_probe.may_bind_exchange(connection, wanted.exchange_bindings[0])


def test_declaring_a_queue_with_dead_letters_needs_three_rights(
    make_app: Callable[..., BrokerApp], management: Management
) -> None:
    """A queue that is not there and has dead letters wants configure, read, and write to the exchange."""
    app = make_app()
    url = app.settings.broker_url.get_secret_value()
    queue = work_topology(app.settings.specs(), "").queues[-1]
    for missing in ("configure", "read", "write"):
        given = {right: EVERYTHING for right in ("configure", "read", "write") if right != missing}
        with (
            user(management, vhost_of(url), **given) as name,
            connect(make_app(url=login(url, name))) as connection,
        ):
            assert not permission_probe.may_declare_queue(connection, queue)
    with connect(app) as connection:
        assert permission_probe.may_declare_queue(connection, queue)
        assert not queue_exists(connection, queue.name)


# The consumer time-out


def test_a_long_run_against_the_assumed_time_out(make_app: Callable[..., BrokerApp]) -> None:
    """A run over 30 minutes is a warning that says that the time-out is RabbitMQ's default and assumed."""
    findings = judge(make_app("[queues.default]\nlongest_run_seconds = 7200.0\n"))
    assert at(findings, Level.ERROR) == []
    [warning] = [text for text in at(findings, Level.WARNING) if text.startswith("queues.default: ")]
    assert "7200 s, a consumer time-out of 1800 s (RabbitMQ's default, assumed" in warning


def test_a_time_out_that_a_policy_sets(
    make_app: Callable[..., BrokerApp], management: Management, broker_version: tuple[int, ...]
) -> None:
    """A consumer time-out that a policy sets is read, and a longer run is an error."""
    if broker_version < (3, 12):
        pytest.skip("RabbitMQ takes this policy from 3.12 on")
    app = make_app()
    declare(app)
    vhost = quote(vhost_of(app.settings.broker_url.get_secret_value()), safe="")
    policy = {"pattern": "^lopri$", "definition": {"consumer-timeout": 60_000}, "apply-to": "queues"}
    management.put(f"policies/{vhost}/short", policy)
    policies = lambda: management.queue(vhost, "lopri").get("effective_policy_definition")  # noqa: E731
    wait_until(policies, 30, "the policy to be in force")
    [error] = at(judge(app), Level.ERROR)
    assert error.startswith("queues.lopri: expected runs below the consumer time-out")
    assert "900 s, a consumer time-out of 60 s (set by a policy)" in error


def test_a_classic_queue_has_no_time_out_from_4_3_on(
    make_app: Callable[..., BrokerApp], broker_version: tuple[int, ...]
) -> None:
    """From RabbitMQ 4.3 on a classic queue may run tasks of any length."""
    app = make_app('[queues.default]\ntype = "classic"\nlongest_run_seconds = 7200.0\n')
    warnings = [text for text in at(judge(app), Level.WARNING) if text.startswith("queues.default")]
    assert len(warnings) == (0 if broker_version >= (4, 3) else 1)


def test_without_the_management_api(make_app: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the API all else is judged, and one warning says what could not be."""
    app = make_app(f"common_lanes = []\n{QUEUES}")
    declare(app)
    monkeypatch.setenv("BROKER_APP_MANAGEMENT_URL", "http://me:s3cret@127.0.0.1:1")
    findings = judge(BrokerApp("checked", config=app.config_file, set_as_current=False))
    [warning] = at(findings, Level.WARNING)
    assert "management API http://127.0.0.1:1: no answer" in warning
    assert "s3cret" not in str(findings)


# Bad input


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Return a port that answers everything with a line that is no AMQP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        joined(thread)


def test_a_broker_that_cannot_be_used(make_app: Callable[..., BrokerApp], deaf_port: int) -> None:
    """No broker, a port that is no AMQP, a wrong password, a missing virtual host: one error each, no password."""
    url = make_app().settings.broker_url.get_secret_value()
    cases = {
        "amqp://me:s3cret@127.0.0.1:1//": "no AMQP broker answers there",
        f"amqp://me:s3cret@127.0.0.1:{deaf_port}//": "no AMQP broker answers there",
        login(url, "guest:s3cret"): "the broker refused the user or password",
        urlunsplit(urlsplit(url)._replace(path="/no-such-vhost")): "vhost no-such-vhost not found",
    }
    for bad, words in cases.items():
        [finding] = judge(make_app(url=bad))
        assert (finding.level, finding.where) == (Level.ERROR, "broker")
        assert words in finding.text
        assert "s3cret" not in finding.text


def test_the_command(make_app: Callable[..., BrokerApp]) -> None:
    """The command prints a line for each finding, or a JSON list, and exits with 0 or 4."""
    app = make_app()
    context = CliContext(app=lambda: app, app_name="checked", is_verbose=False)
    result = CliRunner().invoke(check, ["--broker"], obj=context)
    assert (result.exit_code, result.stderr) == (exit_codes.OK, "")
    assert "\nok       version: RabbitMQ " in result.stdout
    with connect(app) as connection, connection.channel() as channel:
        channel.queue_declare("lopri", durable=True, auto_delete=False)
    result = CliRunner().invoke(check, ["--broker", "--json"], obj=context)
    assert result.exit_code == exit_codes.BROKER
    found = [finding for finding in json.loads(result.stdout) if finding["level"] == "error"]
    assert [finding["where"] for finding in found] == ["queue 'lopri'"]


def test_a_connection_that_is_lost_is_an_error(make_app: Callable[..., BrokerApp], management: Management) -> None:
    """A connection that breaks while the broker is judged is an error, and no traceback."""
    app = make_app()
    findings = judge_broker(app)
    first = next(findings)
    assert first.where == "version"
    vhost = vhost_of(app.settings.broker_url.get_secret_value())
    [connection] = wait_until(lambda: management.connections(vhost), 30, "the connection to be listed")
    management.close_connection(connection["name"])
    *_, last = findings
    assert (last.level, last.where) == (Level.ERROR, "broker")
    assert "the connection was lost" in last.text


def test_a_broker_that_falls_silent_is_an_error(
    make_app: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that stops answering while it is judged ends the judging in a bounded time."""
    monkeypatch.setattr(ask, "ANSWER_SECONDS", 3.0)
    url = make_app().settings.broker_url.get_secret_value()
    with TcpProxy.to(url) as proxy:
        findings = judge_broker(make_app(url=proxy.url(url)))
        next(findings)
        proxy.freeze()
        *_, last = findings
    assert (last.level, last.where) == (Level.ERROR, "broker")
    assert "timed out" in last.text


# Policies


@pytest.fixture
def policies(fresh_vhost_url: str, management: Management) -> Callable[[str, dict[str, Any]], None]:
    """Return what sets a policy on the queues whose names match a pattern."""

    def put(pattern: str, definition: dict[str, Any]) -> None:
        vhost = quote(vhost_of(fresh_vhost_url), safe="")
        management.put(
            f"policies/{vhost}/policy-{len(pattern)}",
            {"pattern": pattern, "definition": definition, "apply-to": "queues"},
        )

    return put


def test_policies_that_hit_queues_and_lanes(
    make_app: Callable[..., BrokerApp], policies: Callable[[str, dict[str, Any]], None]
) -> None:
    """Harmful policy keys are reported by queue (work, lanes, dead letters); other keys are ignored."""
    app = make_app()
    declare(app)
    app.send_task("shop.add", countdown=45)
    policies(r"^lopri$", {"message-ttl": 60_000_000, "max-length": 1_000, "delivery-limit": 20})
    policies(r"^delay\.", {"max-length": 100_000})
    policies(r"^default\.dead$", {"expires": 60_000_000})
    policies(r"^default$", {"queue-mode": "lazy"})

    def found() -> dict[str, str]:
        return {text: level for level in Level for text in at(judge(app), level) if "a policy sets" in text}

    wait_until(lambda: len(found()) == 5, 60, "the policies to be in force")
    assert {text.partition(" = ")[0]: level for text, level in found().items()} == {
        "queue 'lopri': a policy sets message-ttl": Level.ERROR,
        "queue 'lopri': a policy sets max-length": Level.WARNING,
        "queue 'lopri': a policy sets delivery-limit": Level.ERROR,
        "queue 'delay.45s': a policy sets max-length": Level.ERROR,
        "queue 'default.dead': a policy sets expires": Level.ERROR,
    }


# The result store


def test_workers_with_another_result_store(make_app: Callable[..., BrokerApp], tmp_path: Path) -> None:
    """A worker with another state folder is reported: its results would stay PENDING for this process."""
    app = make_app()
    declare(app)
    for state, expected in ((app.settings.state_dir, []), (tmp_path / "other", [Level.ERROR])):
        with worker(app, state):
            wait_until(lambda expected=expected: _are_judged(app, expected), 60, f"the worker to be {expected}")


def _are_judged(app: BrokerApp, expected: list[Level]) -> bool:
    """Return whether the findings about workers are of these levels: a busy worker does not answer in time."""
    found = list(judge_workers(app))
    assert all("other/results.sqlite3" in finding.text for finding in found)
    return [finding.level for finding in found] == expected


@contextmanager
def worker(app: BrokerApp, state: Path) -> Iterator[None]:
    """Run a worker with the app's settings, and results in a state folder, until the block ends."""
    variables = os.environ | {"BROKER_APP_CONFIG": str(app.config_file), "BROKER_APP_STATE_DIR": str(state)}
    command = [sys.executable, "-m", "celery", "-A", "broker_app", "worker", "-P", "solo", "-Q", "default"]
    with Process(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: app.control.ping(timeout=1), 90, "the worker")
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "db+postgresql+psycopg://u:s3cret@127.0.0.1:1/d"])
def test_a_result_store_that_does_not_answer(
    make_app: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """It is an error with the store's words, and without its password."""
    monkeypatch.setenv("BROKER_APP_RESULT_URL", url)
    [finding] = judge_reach(make_app())
    assert (finding.level, finding.where) == (Level.ERROR, "results")
    assert "127.0.0.1:1" in finding.text
    assert "s3cret" not in finding.text
