"""`broker-app queues peek`, `replay`, `move`, `discard`, `purge` as processes: what they print, the exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from apps import depth
from celery import states
from deaths import bury, death_headers, declare, publish, task_headers
from ending import ending
from ledger import SCRIPTS, Ledger, kill, ledger
from waiting import wait_until

from broker_app.cli import exit_codes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp

DEAD = "default.dead"
COUNTS = {
    "queue": DEAD,
    "is_dry_run": False,
    "skipped_succeeded": 0,
    "refused": 0,
    "unroutable": 0,
    "reason": "",
    "not_found": [],
    "is_interrupted": False,
}


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str, management: Management) -> Iterator[Ledger]:
    """Return a project on a virtual host of its own, its queues declared."""
    with ledger(tmp_path, fresh_vhost_url, BROKER_APP_MANAGEMENT_URL=management.url) as made:
        declare(made.app())
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process."""
    return shop.app()


def run(shop: Ledger, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``broker-app queues``."""
    return shop.run("broker-app", "-A", "shop", "queues", *words)


def succeed(shop: Ledger, *words: str) -> str:
    """Run it; it must succeed without a word on stderr; return what it printed."""
    done = run(shop, *words)
    assert (done.returncode, done.stderr) == (exit_codes.OK, ""), done
    return done.stdout


def succeed_json(shop: Ledger, *words: str) -> Any:
    """Run it with ``--json``, and return the value."""
    return json.loads(succeed(shop, *words, "--json"))


def fail(shop: Ledger, code: int, *words: str) -> str:
    """Run it; it must fail with one line on stderr and nothing on stdout; return the line."""
    done = run(shop, *words)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_peek_shows_nothing_that_a_terminal_obeys(shop: Ledger, app: BrokerApp) -> None:
    """Escape sequences and line breaks in what a message says of itself are printed as escapes."""
    nasty = "shop.add\x1b]0;owned\x07\r\n\x1b[2J"
    publish(app, DEAD, [task_headers(nasty, nasty) | death_headers() | {"argsrepr": nasty}])
    shown = succeed(shop, "peek", DEAD) + succeed(shop, "replay", DEAD, "--dry-run")
    assert not set(shown) & set("\x1b\x07\r")
    assert r"shop.add\x1b]0;owned\x07" in shown


def test_peek(shop: Ledger, app: BrokerApp) -> None:
    """The first dead letters with all that is known of them, for people and for scripts; they stay."""
    ids = bury(app, 3)
    found = succeed_json(shop, "peek", DEAD, "--limit", "2")
    assert [one["id"] for one in found] == ids[:2]
    assert found[0].items() >= {"task": "shop.add", "args": "(1, 2)", "reason": "failed", "retries": 3}.items()
    assert found[0].keys() >= {"kwargs", "age_seconds", "exception", "traceback", "node", "is_redelivered"}
    shop.variables["COLUMNS"] = "160"  # readline, which pytest imports, sets it to 80
    shown = succeed(shop, "peek", DEAD)
    for part in ("shop.add", "(1, 2)", "failed: ValueError:"):
        assert part in " ".join(shown.replace("│", " ").split())
    assert depth(app, DEAD) == 3


def test_peek_with_filters(shop: Ledger, app: BrokerApp) -> None:
    """The filters of `replay` choose among all messages, and a table of any width shows ids whole."""
    ids = bury(app, 2, task="shop.note") + bury(app, 2)
    [one] = succeed_json(shop, "peek", DEAD, "--task", "shop.add", "--limit", "1")
    [other] = succeed_json(shop, "peek", DEAD, "--id", ids[1], "--reason", "f*")
    assert (one["id"], other["id"]) == (ids[2], ids[1])
    assert succeed_json(shop, "peek", DEAD, "--older-than", "1h") == []
    shop.variables["COLUMNS"] = "70"
    shown = succeed(shop, "peek", DEAD, "--newer-than", "1h")
    assert all(one in shown for one in ids)
    assert depth(app, DEAD) == 4


def test_replay(shop: Ledger, app: BrokerApp) -> None:
    """A dry run, some by filters, the rest; and a worker runs them under their ids."""
    ids = bury(app, 2, task="shop.note") + bury(app, 1, task="shop.nap")
    dry = succeed(shop, "replay", DEAD, "--task", "shop.no*", "--dry-run")
    assert dry == "2 of 3 would be replayed (shop.note 2)\n"
    assert succeed_json(shop, "replay", DEAD, "--id", ids[1]) == COUNTS | {
        "read": 3,
        "selected": 1,
        "replayed": 1,
        "by_task": {"shop.note": 1},
    }
    assert succeed(shop, "replay", DEAD, "--limit", "1") == "1 replayed (shop.note 1)\n"
    assert depth(app, "default") == 2
    assert succeed(shop, "replay", DEAD, "--to", "lopri", "--newer-than", "1h") == "1 replayed (shop.nap 1)\n"
    assert (depth(app, DEAD), depth(app, "lopri")) == (0, 1)


@pytest.mark.timeout(240)
def test_a_replayed_task_runs_and_its_result_comes(shop: Ledger, app: BrokerApp) -> None:
    """A caller waiting for the id of a failed task gets the result of the replay."""
    task = app.send_task("shop.note")
    wait_until(lambda: depth(app, "default"), 30, "the task")
    assert succeed(shop, "move", "default", DEAD) == "1 moved (shop.note 1)\n"
    app.backend.store_result(task.id, ValueError("bad"), states.FAILURE)
    assert succeed(shop, "replay", DEAD) == "1 replayed (shop.note 1)\n"
    with shop.worker("-P", "solo"):
        assert task.get(timeout=60) is None
    assert set(shop.runs()) == {task.id}


def test_what_has_succeeded_is_skipped(shop: Ledger, app: BrokerApp) -> None:
    """With `--skip-succeeded` a task whose result is SUCCESS stays and is counted; the exit code is 0."""
    ids = bury(app, 2)
    app.backend.store_result(ids[0], 3, states.SUCCESS)
    shown = succeed(shop, "replay", DEAD, "--skip-succeeded")
    assert shown == "1 replayed (shop.add 1), 1 skipped because their result is SUCCESS\n"
    assert succeed_json(shop, "replay", DEAD, "--skip-succeeded")["skipped_succeeded"] == 1


def test_what_cannot_go_is_told(shop: Ledger, app: BrokerApp) -> None:
    """A message without a queue, and an unknown id: exit code 1 with the reason, and all messages stay."""
    bury(app, 2)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_unbind("default", "tasks", "default")
    done = run(shop, "replay", DEAD)
    words = "0 replayed (shop.add 2), 2 left: default: its queue is not on the broker\n"
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.FAILED, words, "")
    done = run(shop, "replay", DEAD, "--id", "x", "--json")
    assert (done.returncode, json.loads(done.stdout)["not_found"]) == (exit_codes.FAILED, ["x"])
    assert depth(app, DEAD) == 2


def test_move_and_discard(shop: Ledger, app: BrokerApp) -> None:
    """Both take the filters and count what they did."""
    headers = [
        task_headers(identity=one) | death_headers(seconds_ago=age) for one, age in (("old", 90_000), ("new", 0))
    ]
    publish(app, DEAD, headers)
    assert succeed(shop, "discard", DEAD, "--older-than", "1d", "--dry-run") == (
        "1 of 2 would be discarded (shop.add 1)\n"
    )
    assert succeed_json(shop, "discard", DEAD, "--older-than", "1d") == COUNTS | {
        "read": 2,
        "selected": 1,
        "discarded": 1,
        "by_task": {"shop.add": 1},
    }
    assert succeed(shop, "move", DEAD, "lopri.dead", "--reason", "failed") == "1 moved (shop.add 1)\n"
    assert (depth(app, DEAD), depth(app, "lopri.dead")) == (0, 1)


def test_purge(shop: Ledger, app: BrokerApp) -> None:
    """Without a terminal it wants `--yes`, and removes nothing before."""
    bury(app, 2)
    assert "purge: expected --yes" in fail(shop, exit_codes.USAGE, "purge", DEAD)
    assert depth(app, DEAD) == 2
    assert succeed(shop, "purge", DEAD, "--yes") == "2 removed\n"
    assert succeed_json(shop, "purge", DEAD, "--yes") == {"queue": DEAD, "removed": 0}


@pytest.mark.parametrize(("answer", "code", "left"), [("n", exit_codes.FAILED, 2), ("y", exit_codes.OK, 0)])
def test_purge_asks_on_a_terminal(shop: Ledger, app: BrokerApp, answer: str, code: int, left: int) -> None:
    """With the number of messages and the queue; only a yes removes them."""
    bury(app, 2)
    ours, theirs = pty.openpty()
    command = [str(SCRIPTS / "broker-app"), "-A", "shop", "queues", "purge", DEAD]
    with ending(
        subprocess.Popen(
            command, cwd=shop.folder, env=shop.environment, stdin=theirs, stderr=subprocess.PIPE, text=True
        )
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        _, err = process.communicate(timeout=60)
    os.close(ours)
    assert "Permanently remove all 2 messages of default.dead? [y/N]:" in err
    assert process.returncode == code
    assert depth(app, DEAD) == left


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("peek", "defalt.dead"), "did you mean 'default.dead'"),
        (("peek", DEAD, "--limit", "0"), "--limit: expected a whole number from 1 on, got '0'"),
        (("replay", DEAD, "--older-than", "soon"), "--older-than: expected a time such as"),
        (("replay", DEAD, "--newer-than", "10"), "--newer-than: expected a time such as"),
        (("replay", DEAD, "--limit", "many"), "--limit: expected a whole number"),
        (("replay", DEAD, "--to", "lopry"), "did you mean 'lopri'"),
        (("replay", "default"), "expected dead letters, got a work queue"),
        (("move", DEAD, DEAD), "expected another queue"),
        (("move", DEAD, "delay.10s"), "got a delay lane"),
        (("discard", DEAD), "discard: expected a filter"),
        (("purge", "defalt", "--yes"), "did you mean 'default'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_words(shop: Ledger, app: BrokerApp, words: tuple[str, ...], shown: str) -> None:
    """One line that says what was expected, exit code 2, and nothing is touched."""
    bury(app)
    assert shown in fail(shop, exit_codes.USAGE, *words)
    assert depth(app, DEAD) == 1


@pytest.mark.timeout(240)
def test_an_interrupted_replay(shop: Ledger, app: BrokerApp) -> None:
    """Ctrl-C ends it soon: it says how far it got, exits with 130, and each task is in exactly one queue."""
    count = 20_000
    publish(app, DEAD, [task_headers(identity=str(number)) | death_headers() for number in range(count)])
    with shop.popen("broker-app", "-A", "shop", "queues", "replay", DEAD, "--json") as process:
        try:
            wait_until(lambda: depth(app, "default"), 60, "the replay to begin")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            kill(process)
    told = json.loads(out)
    assert (process.returncode, err, told["is_interrupted"]) == (exit_codes.INTERRUPTED, "", True)
    assert 0 < told["replayed"] < count
    wait_until(lambda: depth(app, "default") == told["replayed"], 30, "all that was sent")
    wait_until(lambda: depth(app, DEAD) == count - told["replayed"], 30, "the rest to be back")
