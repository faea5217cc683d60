"""The spool: a producer does not notice that the broker is away, and nothing is lost, reordered or sent twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from apps import TWO_QUEUES, delete, depth, take
from click.testing import CliRunner
from ending import ended
from ports import free_port
from proxy import TcpProxy
from waiting import wait_until

from broker_app.cli import exit_codes
from broker_app.cli.command import CliContext
from broker_app.cli.spool import spool
from broker_app.errors import BrokerUnreachable, UnknownQueue
from broker_app.publishing.spool import Flusher, FlushResult, SpoolFile
from broker_app.publishing.spool.store import SpooledMessage
from broker_app.queues.headers import DELAY_HEADER, MAYBE_TWICE_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import AppMaker
    from click.testing import Result

    from broker_app import BrokerApp

SPOOL = "[publish]\nspool = true\n"
BRIEFLY = "timeout_seconds = 0.6\nconnect_timeout_seconds = 0.5\n"
SETTINGS = SPOOL + TWO_QUEUES
AWAY = SPOOL + BRIEFLY + TWO_QUEUES
"""For an app whose broker is away: it does not wait long for it."""


@pytest.fixture
def nobody() -> str:
    """Return the URL of a broker that is not there."""
    port = free_port()
    return f"amqp://guest:guest@127.0.0.1:{port}//"


@pytest.fixture
def proxy(fresh_vhost_url: str) -> Iterator[TcpProxy]:
    """Return a way to the broker that can be cut."""
    with TcpProxy.to(fresh_vhost_url) as made:
        yield made


def store_of(app: BrokerApp) -> SpoolFile:
    """Return the app's spool."""
    return SpoolFile(app.settings.state_dir, 1_000, 10**9)


def flush(app: BrokerApp) -> FlushResult:
    """Send what is in the spool, as soon as no thread of another app of the test is at it."""
    flusher = Flusher(app, store_of(app))
    return wait_until(lambda: None if (done := flusher.flush(5)).is_busy else done, 30, "the spool to be free")


def run(app: BrokerApp, *words: str) -> Result:
    """Run ``broker-app spool``, as soon as no thread of another app of the test is at it."""
    context = CliContext(lambda: app, "tests", is_verbose=False)

    def once() -> Result | None:
        result = CliRunner().invoke(spool, list(words), obj=context)
        return None if "another process is sending" in result.stderr else result

    found = wait_until(once, 30, "the spool to be free")
    assert found is not None
    return found


def test_tasks_wait_and_are_sent_in_order(make_app: AppMaker, nobody: str) -> None:
    """Calls return while the broker is away; when it is back all are there, in order, once, with no mark."""
    away = make_app(AWAY, url=nobody)
    ids = [away.send_task("any", args=(n,), queue=("default", "lopri")[n % 2]).id for n in range(6)]
    app = make_app(SETTINGS)
    assert store_of(app).status().waiting == 6
    ids.append(app.send_task("any", args=(6,)).id)  # behind the others, and it wakes the thread
    wait_until(lambda: not store_of(app).has_waiting(), 30, "the spool to be sent")
    messages = take(app, "default")
    assert [message.headers["id"] for message in messages] == ids[::2]
    assert [message.headers["id"] for message in take(app, "lopri")] == ids[1::2]
    assert [message.decode()[0] for message in messages] == [[0], [2], [4], [6]]
    assert not any(MAYBE_TWICE_HEADER in message.headers for message in messages)


def test_the_thread_sends_when_the_broker_is_back(make_app: AppMaker, fresh_vhost_url: str) -> None:
    """Spooled tasks are sent in order when the broker is back, without another call."""
    proxy = TcpProxy.to(fresh_vhost_url)
    app = make_app(f"{SPOOL}timeout_seconds = 4\n{TWO_QUEUES}", url=proxy.url(fresh_vhost_url))
    app.send_task("first", confirm_timeout=60)
    proxy.freeze()
    proxy.cut()
    app.send_task("second")
    app.send_task("third")
    assert depth(make_app(), "default") == 1
    proxy.thaw()
    wait_until(lambda: depth(make_app(), "default") == 3, 30, "the spooled tasks to arrive")
    assert [message.headers["task"] for message in take(make_app(), "default")] == ["first", "second", "third"]
    proxy.close()


def test_what_may_have_been_taken_says_so(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> None:
    """A task whose confirmation did not come is sent again with the header; the one after it without."""
    app = make_app(f"{SPOOL}timeout_seconds = 4\n{TWO_QUEUES}", url=proxy.url(fresh_vhost_url))
    app.send_task("before", confirm_timeout=60)
    proxy.freeze(new_too=True)
    app.send_task("unsure")
    app.send_task("sure")
    proxy.cut()
    proxy.thaw()
    wait_until(lambda: not store_of(app).has_waiting(), 30, "the spool to be sent")
    marks = {
        message.headers["task"]: bool(message.headers.get(MAYBE_TWICE_HEADER))
        for message in take(make_app(), "default")
    }
    assert marks == {"before": False, "unsure": True, "sure": False}


def test_a_countdown_counts_on_in_the_spool(make_app: AppMaker, nobody: str) -> None:
    """It is due when it would have been: the lanes hold what is left; the moment of publishing stays."""
    away = make_app(AWAY, url=nobody)
    begun = time.time()
    away.send_task("later", countdown=3_600)
    app = make_app(SETTINGS)
    time.sleep(0.3)
    assert flush(app).sent == 1
    (message,) = take(app, "delay.59m")
    assert message.headers[DELAY_HEADER] == 3_600
    assert message.headers[PUBLISHED_AT_HEADER] == pytest.approx(begun, abs=10)


def test_a_refusal_is_not_spooled(make_app: AppMaker) -> None:
    """An invalid call fails for its caller, as without a spool."""
    app = make_app(SETTINGS)
    with pytest.raises(UnknownQueue):
        app.send_task("any", queue="loprii")
    assert not store_of(app).file.exists()


def test_a_full_spool_is_an_error(make_app: AppMaker, nobody: str) -> None:
    """The call that finds no room raises what it would have raised, and says that the spool is full."""
    app = make_app(SPOOL + BRIEFLY + "spool_max_messages = 2\n" + TWO_QUEUES, url=nobody)
    app.send_task("one")
    app.send_task("two")
    with pytest.raises(BrokerUnreachable, match=r"it was not spooled.*full: 2 messages"):
        app.send_task("three")


def test_a_queue_that_is_no_more_does_not_hold_up_the_rest(make_app: AppMaker, nobody: str) -> None:
    """A spooled task that no queue accepts is set aside with its reason, kept, and sent again on request."""
    away = make_app(AWAY, url=nobody)
    away.send_task("kept", queue="lopri")
    away.send_task("sent", queue="default")
    app = make_app(SPOOL + "[queues.default]\n")
    result = run(app, "flush")
    assert result.exit_code == exit_codes.NOT_PUBLISHED
    assert result.stdout == "sent 1, refused 1\n"
    status = json.loads(run(app, "status", "--json").stdout)
    assert (status["waiting"], status["refused"]) == (0, 1)
    assert "lopri" in next(iter(status["reasons"]))
    again = make_app(SETTINGS)
    assert run(again, "flush", "--refused").stdout == "sent 1\n"
    assert depth(again, "lopri") == 1


def test_a_deleted_queue_is_declared(make_app: AppMaker, nobody: str) -> None:
    """The tasks spooled for it find it again."""
    app = make_app(SETTINGS)
    app.send_task("before")
    delete(app, "default")
    make_app(AWAY, url=nobody).send_task("after")
    assert flush(app).sent == 1
    assert depth(app, "default") == 1


def test_the_commands_without_a_spool_and_without_a_broker(make_app: AppMaker, nobody: str) -> None:
    """An empty spool is no fault; a broker that is away leaves all in it, and is exit code 5."""
    app = make_app(SETTINGS)
    assert "waiting 0, refused 0" in run(app, "status").stdout
    assert (run(app, "flush").exit_code, run(app, "flush").stdout) == (0, "sent 0\n")
    away = make_app(AWAY, url=nobody)
    away.send_task("any")
    result = run(away, "flush", "--json")
    assert result.exit_code == exit_codes.NOT_PUBLISHED
    assert json.loads(result.stdout) == {"sent": 0, "refused": 0, "left": True, "busy": False}
    assert "broker-app: task any [" in result.stderr
    assert "waiting 1, the first for " in run(away, "status").stdout


def test_one_flusher_at_a_time(make_app: AppMaker, nobody: str) -> None:
    """A second flusher reports that another is at work, and sends nothing."""
    make_app(AWAY, url=nobody).send_task("any")
    app = make_app(SETTINGS)
    flusher = Flusher(app, store_of(app))
    with ExitStack() as stack:
        wait_until(lambda: stack.enter_context(flusher._alone()), 30, "the spool to be free")
        assert Flusher(app, store_of(app)).flush(5).is_busy
    assert depth(app, "default") is None


def test_a_flusher_that_was_killed_says_what_may_be_there_twice(make_app: AppMaker, nobody: str) -> None:
    """A task that was marked in the file before its flusher was killed is sent with `broker_app_maybe_twice`."""
    away = make_app(AWAY, url=nobody)
    away.send_task("any")
    app, store = make_app(SETTINGS), store_of(away)
    store.mark([one.number for one in store.first(10)], maybe_taken=True)  # and then it was killed
    assert flush(app).sent == 1
    (message,) = take(app, "default")
    assert message.headers[MAYBE_TWICE_HEADER] is True


def test_many_spooled_tasks_arrive_in_order(make_app: AppMaker, nobody: str) -> None:
    """Spooled tasks of more than one batch arrive in order."""
    away: Any = make_app(AWAY, url=nobody)
    ids = [away.send_task("any", args=(n,)).id for n in range(700)]
    app = make_app(SETTINGS)
    assert flush(app).sent == 700
    assert [message.headers["id"] for message in take(app, "default")] == ids


def spooled(task_id: str) -> SpooledMessage:
    """Return a message for the spool."""
    return SpooledMessage(0, "any", task_id, "default", "tasks", "default", 0.0, time.time(), False, b"", b"")  # noqa: FBT003


def test_threads_and_processes_write_beside_each_other(tmp_path: Path) -> None:
    """Messages that threads and processes spool at the same time are each in the file once, in their order."""
    script = (
        "import pathlib, sys, time\n"
        "from broker_app.publishing.spool.store import SpooledMessage, SpoolFile\n"
        "store = SpoolFile(pathlib.Path(sys.argv[1]), 1000, 10**6)\n"
        "for n in range(30):\n"
        "    identity = sys.argv[2] + str(n)\n"
        "    store.add(SpooledMessage(0, 't', identity, 'q', 'e', 'k', 0.0, time.time(), False, b'', b''))\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, tmp_path, name]) for name in ("x", "y")]
    store = SpoolFile(tmp_path, 1_000, 10**6)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.add(spooled(f"t{n}")), range(30)))
    assert [ended(other) for other in others] == [0, 0]
    found = [one.task_id for one in store.first(100)]
    assert len(found) == len(set(found)) == 90
    assert [name for name in found if name[0] == "x"] == [f"x{n}" for n in range(30)]
