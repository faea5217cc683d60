"""`broker-app queues`, `cancel` and `topology`, as processes: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import delete, depth, put, take
from ending import END_SECONDS
from ledger import Ledger, kill, ledger
from migrating import hurry
from waiting import wait_until

from broker_app.cli import exit_codes

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp

DECLARED = "12 exchanges, 8 queues and 9 delay lanes are declared\n"


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str, management: Management) -> Iterator[Ledger]:
    """Return a project on a virtual host of its own."""
    with ledger(tmp_path, fresh_vhost_url, BROKER_APP_MANAGEMENT_URL=management.url) as made:
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process."""
    return shop.app()


def run(shop: Ledger, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``broker-app``."""
    return shop.run("broker-app", "-A", "shop", *words)


def succeed(shop: Ledger, *words: str) -> str:
    """Run ``broker-app``, which must succeed without a word on stderr, and return what it printed."""
    done = run(shop, *words)
    assert (done.returncode, done.stderr) == (exit_codes.OK, ""), done
    return done.stdout


def succeed_json(shop: Ledger, *words: str) -> Any:
    """Run ``broker-app … --json`` and return its output as one value."""
    return json.loads(succeed(shop, *words, "--json"))


def fail(shop: Ledger, code: int, *words: str) -> str:
    """Run ``broker-app``, which must fail with one line on stderr and nothing on stdout; return the line."""
    done = run(shop, *words)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "secret" not in done.stderr
    return done.stderr


def park(app: BrokerApp) -> str:
    """Let a task be due for `lopri` while that is gone, and return its id."""
    task = app.send_task("shop.note", queue="lopri")
    message = take(app, "lopri")[-1]
    delete(app, "lopri")
    with app.connection_for_write() as connection:
        copy = amqp.Message(message.body, **dict(message.properties, application_headers=message.headers))
        put(connection.default_channel, copy, "tasks.due", "0d.0h.0m.1s.0ms.lopri")
    wait_until(lambda: depth(app, "tasks.unrouted"), 30, "the task to be parked")
    return str(task.id)


# queues


EMPTY = {
    "is_declared": False,
    "ready": 0,
    "running": None,
    "dead": 0,
    "consumers": 0,
    "oldest_wait_seconds": None,
    "is_paused": False,
    "is_removed": False,
}


def test_queues_list(shop: Ledger, app: BrokerApp) -> None:
    """Each queue's tasks by state, consumers and dead letters, the scheduled tasks and the parked ones."""
    assert succeed_json(shop, "queues", "list")["queues"]["default"] == EMPTY
    park(app)
    for countdown in (None, None, 3_600):
        app.send_task("shop.note", countdown=countdown)

    found = succeed_json(shop, "queues", "list", "--no-look")
    assert found["queues"]["default"] == EMPTY | {"is_declared": True, "ready": 2, "running": 0}
    assert found["queues"]["lopri"]["is_declared"] is False
    assert (found["scheduled"], found["unrouted"], found["not_known"]) == (1, 1, [])

    shown = succeed(shop, "queues", "list", "--no-look")
    assert "not declared" in shown
    assert shown.endswith("scheduled in the delay lanes: 1; parked in tasks.unrouted: 1\n")


def test_queues_list_without_the_management_api(shop: Ledger, app: BrokerApp) -> None:
    """It works, and a line on stderr says what is not known."""
    app.send_task("shop.note")
    shop.variables["BROKER_APP_MANAGEMENT_URL"] = "http://127.0.0.1:1"
    done = run(shop, "queues", "list", "--no-look")
    assert done.returncode == exit_codes.OK
    assert "?" in done.stdout
    assert "what is running" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(succeed_json(shop, "queues", "list", "--no-look")["not_known"]) == 1


def test_queues_list_again_and_again(shop: Ledger) -> None:
    """`--watch` ends after `--count` times, one line of JSON each, or with Ctrl-C and 130."""
    words = ("queues", "list", "--watch", "--every", "0.1")
    lines = succeed(shop, *words, "--count", "3", "--json").splitlines()
    assert [json.loads(line)["unrouted"] for line in lines] == [0, 0, 0]
    assert "scheduled in the delay lanes: 0" in succeed(shop, *words, "--count", "2")
    assert run(shop, "queues", "list", "--count", "2").returncode == exit_codes.USAGE

    with shop.popen("broker-app", "-A", "shop", *words, "--json") as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["scheduled"] == 0
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=END_SECONDS)
        finally:
            kill(process)
    assert (process.returncode, err) == (exit_codes.INTERRUPTED, "broker-app: interrupted\n")


def test_queues_scheduled(shop: Ledger, app: BrokerApp) -> None:
    """By due time, per virtual host, with the lanes in the JSON output."""
    for countdown in (50, 110, 7_200):
        app.send_task("shop.note", countdown=countdown)
    found = succeed_json(shop, "queues", "scheduled")
    buckets = {"1 minute": 1, "10 minutes": 1, "1 hour": 0, "1 day": 1, "later": 0}
    assert found["due_at_the_latest_within"] == buckets
    assert {name: depth for name, depth in found["lanes"].items() if depth} == {
        "delay.50s": 1,
        "delay.1m": 1,
        "delay.2h": 1,
    }
    assert (found["total"], found["held_up"], found["is_complete"]) == (3, 0, True)
    assert found["virtual_host"] in shop.url

    shown = succeed(shop, "queues", "scheduled")
    assert [line.split("│")[1].strip() for line in shown.splitlines() if "│" in line] == [*buckets, "total"]


def test_queues_scheduled_without_the_management_api(shop: Ledger, app: BrokerApp) -> None:
    """It works, and a line on stderr says what is not known."""
    app.send_task("shop.note", countdown=90)
    shop.variables["BROKER_APP_MANAGEMENT_URL"] = "http://127.0.0.1:1"
    done = run(shop, "queues", "scheduled")
    assert done.returncode == exit_codes.OK
    assert "lanes over 60 days" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert succeed_json(shop, "queues", "scheduled")["is_complete"] is False


def test_queues_unrouted(shop: Ledger, app: BrokerApp) -> None:
    """Unrouted tasks are shown; a replay moves all that have a queue, leaves the others, and exits with 1."""
    identity = park(app)
    assert succeed_json(shop, "queues", "unrouted") == [{"id": identity, "task": "shop.note", "queue": "lopri"}]
    assert identity in succeed(shop, "queues", "unrouted").replace("\n", "")

    left = run(shop, "queues", "unrouted", "--replay")
    assert (left.returncode, left.stderr) == (exit_codes.FAILED, "")
    assert left.stdout == "0 replayed, 1 left: 0d.0h.0m.1s.0ms.lopri: its queue is not on the broker\n"
    left = run(shop, "queues", "unrouted", "--replay", "--json")
    assert left.returncode == exit_codes.FAILED
    assert (json.loads(left.stdout)["moved"], json.loads(left.stdout)["left"]) == (0, 1)

    assert succeed(shop, "topology", "declare") == DECLARED
    assert succeed(shop, "queues", "unrouted", "--replay") == "1 replayed, 0 left\n"
    assert depth(app, "lopri") == 1
    assert succeed_json(shop, "queues", "unrouted") == []
    park(app)
    assert succeed_json(shop, "queues", "unrouted", "--replay", "--to", "default") == {
        "moved": 1,
        "left": 0,
        "reason": "",
    }
    assert depth(app, "default") == 1


def test_queues_bad_words(shop: Ledger, app: BrokerApp) -> None:
    """A broker without our topology is exit code 4, an unknown queue or an incomplete option 2."""
    assert "topology declare" in fail(shop, exit_codes.BROKER, "queues", "unrouted")
    park(app)
    assert "did you mean 'lopri'" in fail(
        shop, exit_codes.USAGE, "queues", "unrouted", "--replay", "--to", "lopry"
    )
    assert run(shop, "queues", "unrouted", "--to", "lopri").returncode == exit_codes.USAGE
    assert depth(app, "tasks.unrouted") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("queues", "list"),
        ("queues", "scheduled", "--json"),
        ("queues", "unrouted"),
        ("queues", "unrouted", "--replay"),
        ("queues", "peek", "default.dead"),
        ("queues", "replay", "default.dead"),
        ("queues", "move", "default.dead", "lopri"),
        ("queues", "discard", "default.dead", "--id", "one"),
        ("queues", "purge", "default.dead", "--yes"),
        ("cancel", "an-id"),
        ("topology", "declare"),
        ("topology", "prune"),
    ],
    ids=" ".join,
)
def test_no_broker(shop: Ledger, words: tuple[str, ...]) -> None:
    """One line, without a password, and the exit code for it."""
    shop.url = "amqp://u:secret@127.0.0.1:1//"
    assert "127.0.0.1:1" in fail(shop, exit_codes.BROKER, *words)


# cancel


def test_cancel(shop: Ledger, app: BrokerApp) -> None:
    """It prints each task's state; a worker that starts later refuses them; one that has ended stays as it is."""
    ended = app.send_task("shop.note")
    with shop.worker("-P", "solo"):
        ended.get(timeout=60)
    tasks = [app.send_task("shop.note") for _ in range(2)] + [app.send_task("shop.note", countdown=1)]
    ids = [task.id for task in tasks]

    assert succeed(shop, "cancel", ids[0], ids[1]) == f"{ids[0]} REVOKED\n{ids[1]} REVOKED\n"
    assert succeed_json(shop, "cancel", ids[2], ended.id) == [
        {"id": ids[2], "state": "REVOKED"},
        {"id": ended.id, "state": "SUCCESS"},
    ]
    assert run(shop, "cancel").returncode == exit_codes.USAGE

    last = app.send_task("shop.note")
    with shop.worker("-P", "solo", name="two"):
        last.get(timeout=60)
        wait_until(lambda: depth(app, "default") == 0 and depth(app, "delay.1s") == 0, 30, "all to be taken")
    assert set(shop.runs()) == {ended.id, last.id}


def test_cancel_without_a_result_store(shop: Ledger, app: BrokerApp) -> None:
    """The task is cancelled, and a warning says that REVOKED could not be stored."""
    app.send_task("shop.note")
    shop.variables["BROKER_APP_RESULT_URL"] = "db+sqlite:////proc/none/results.sqlite3"
    done = run(shop, "cancel", "an-id")
    assert (done.returncode, done.stdout) == (exit_codes.OK, "an-id cancelled\n")
    assert "cancelled, but failed to store REVOKED" in done.stderr
    assert "Traceback" not in done.stderr


# topology


def test_topology_declare(shop: Ledger, app: BrokerApp) -> None:
    """All that the settings name is there, the common lanes too; a second time nothing changes."""
    assert succeed(shop, "topology", "declare") == succeed(shop, "topology", "declare") == DECLARED
    queues = ("default", "lopri", "default.dead", "lopri.dead", "tasks.unrouted", "delay.1s", "delay.1h")
    assert [depth(app, queue) for queue in queues] == [0] * len(queues)


def test_topology_declare_meets_other_arguments(shop: Ledger, app: BrokerApp) -> None:
    """A queue declared with other arguments is named in one line, with the broker's reply code."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("lopri", durable=True, auto_delete=False)
    line = fail(shop, exit_codes.BROKER, "topology", "declare")
    assert "queue 'lopri'" in line
    assert "406" in line


@pytest.mark.timeout(240)
def test_topology_prune(shop: Ledger, app: BrokerApp) -> None:
    """A dry run lists the lanes that a real run removes; common, short and used lanes stay."""
    hurry(shop)
    app.send_task("shop.note", countdown=45 * 60)
    app.send_task("shop.note", countdown=13 * 3_600 + 50)
    take(app, "delay.13h")
    succeed(shop, "topology", "declare")

    would = succeed_json(shop, "topology", "prune", "--dry-run")
    assert (would["is_dry_run"], would["removed"]) == (True, ["delay.13h"])
    assert (
        succeed(shop, "topology", "prune", "--dry-run") == "would remove delay.13h\n1 lanes to remove, 11 kept\n"
    )
    assert depth(app, "delay.13h") == 0

    assert succeed(shop, "topology", "prune") == "removed delay.13h\n1 lanes removed, 11 kept\n"
    assert (depth(app, "delay.13h"), depth(app, "delay.45m"), depth(app, "delay.50s")) == (None, 1, 0)


def test_topology_prune_without_the_management_api(shop: Ledger) -> None:
    """Nothing is removed, and one line says why."""
    shop.variables["BROKER_APP_MANAGEMENT_URL"] = "http://127.0.0.1:1"
    line = fail(shop, exit_codes.BROKER, "topology", "prune")
    assert "nothing is removed without the management API" in line


def test_they_are_celerys_commands_too(shop: Ledger, app: BrokerApp) -> None:
    """`celery -A shop queues …`, `cancel` and `topology` do the same."""
    assert shop.run("celery", "-A", "shop", "topology", "declare").stdout == DECLARED
    assert json.loads(shop.run("celery", "-A", "shop", "queues", "list", "--json").stdout)["unrouted"] == 0
    task = app.send_task("shop.note")
    assert shop.run("celery", "-A", "shop", "cancel", task.id).stdout == f"{task.id} REVOKED\n"


def test_retire(shop: Ledger, app: BrokerApp) -> None:
    """A queue that left the settings is marked in the list; `retire` refuses to lose its message, and moves it."""
    hurry(shop)
    succeed(shop, "topology", "declare")
    with app.connection_for_write() as connection:
        arguments = {
            "x-queue-type": "classic",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "tasks.dead",
            "x-dead-letter-routing-key": "old",
        }
        channel = connection.default_channel
        channel.queue_declare("old", durable=True, auto_delete=False, arguments=arguments)
        put(channel, amqp.Message("{}"), "", "old")
    assert "old (removed)" in succeed(shop, "queues", "list", "--no-look")
    assert "expected --into QUEUE for 1 message " in fail(shop, exit_codes.USAGE, "queues", "retire", "old")
    would = succeed_json(shop, "queues", "retire", "old", "--into", "lopri", "--dry-run")
    assert (would["messages"], would["into"], would["is_dry_run"]) == (1, "lopri", True)
    done = run(shop, "queues", "retire", "old", "--into", "lopri")
    assert done.returncode == exit_codes.OK, done.stderr
    assert done.stdout == "retired old: 1 message and 0 dead letters to lopri\n"
    assert (depth(app, "old"), depth(app, "lopri")) == (None, 1)
    assert "it does not exist on the broker" in fail(shop, exit_codes.USAGE, "queues", "retire", "old")
