"""A failed task is a dead letter with reason, time and node; its result says so too."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import amqp
import pytest
from apps import depth, take
from celery import chord
from celery.exceptions import ChordError, NotRegistered, TimeLimitExceeded
from configured import configured_client, failure
from waiting import wait_until
from workers import RunningWorker, running_worker

from broker_app.broker.access import connect
from broker_app.errors import OutOfMemory, Rejected, TaskFailure, Undecodable, UnknownTask
from broker_app.worker.dead_letters import MAX_EXCEPTION_CHARACTERS, MAX_TRACEBACK_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kombu.message import Message

    from broker_app import BrokerApp

SECONDS = 60.0
SETTINGS = """
prefix = "shop."
[queues.default]
[queues.lopri]
type = "classic"
dead_letters = "discard"
"""


@pytest.fixture(scope="module", params=["prefork", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    """Return the pool of the shared worker."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the shared worker and the client use."""
    return tmp_path_factory.mktemp(pool)


@pytest.fixture(scope="module")
def worker(pool: str, folder: Path, vhost_url: str) -> Iterator[RunningWorker]:
    """Run a worker that the tests share."""
    configured_client(folder, vhost_url, SETTINGS)
    with running_worker(folder, vhost_url, "-I", "doomed", "-P", pool, "-c", "2", name=pool) as running:
        yield running


@pytest.fixture
def app(worker: RunningWorker, folder: Path, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client of the shared worker; no dead letter is left over for the next test."""
    assert worker.process.poll() is None
    app = configured_client(folder, vhost_url, SETTINGS)
    yield app
    take(app, "shop.default.dead")
    app.close()


def dead_letter(app: BrokerApp, queue: str = "shop.default") -> Message:
    """Take the only dead letter, when it is there."""
    wait_until(lambda: depth(app, f"{queue}.dead"), SECONDS, "a dead letter")
    (message,) = take(app, f"{queue}.dead")
    return message


def publish_raw(app: BrokerApp, body: bytes, **properties: Any) -> None:
    """Publish a foreign message."""
    with connect(app) as connection:
        channel = connection.channel()
        channel.confirm_select()
        channel.basic_publish_confirm(amqp.Message(body, **properties), "shop.tasks", "shop.default")


@pytest.mark.version
def test_a_failed_task_says_why_when_and_where(app: BrokerApp, pool: str) -> None:
    """The dead letter is the message, with reason, moment, queue, node, error and traceback in its headers."""
    before = time.time()
    result = app.send_task("workload.fail", ("for good",), headers={"customer": "7"})
    assert str(failure(result)) == "for good"
    message = dead_letter(app)

    dead = {name.removeprefix("broker_app_dead_"): value for name, value in message.headers.items()}
    assert dead["reason"] == "failed"
    assert before <= dead["at"] <= time.time()
    assert dead["queue"] == "shop.default"
    assert dead["node"].startswith(f"{pool}@")
    assert dead["exception"] == "ValueError: for good"
    assert dead["traceback"].startswith("Traceback (most recent call last)")
    assert dead["traceback"].rstrip().endswith("ValueError: for good")
    assert "starts" not in dead
    assert (dead["id"], dead["task"], dead["customer"]) == (result.id, "workload.fail", "7")
    assert json.loads(message.body)[0] == ["for good"]
    assert message.properties["correlation_id"] == result.id
    assert message.properties["delivery_mode"] == 2
    assert "x-death" not in message.headers
    assert depth(app, "shop.default") == 0


def test_a_task_whose_result_nobody_wants_stands_there_too(app: BrokerApp) -> None:
    """A failed task is kept as a dead letter even if its result is ignored."""
    app.send_task("doomed.fail_unheard")
    assert dead_letter(app).headers["broker_app_dead_exception"] == "ValueError: unheard"


def test_a_task_that_was_acknowledged_early_stands_there_too(app: BrokerApp) -> None:
    """With acks_late=False a failed task is kept as a dead letter too."""
    app.send_task("doomed.fail_early")
    assert dead_letter(app).headers["broker_app_dead_reason"] == "failed"


def test_long_words_are_cut(app: BrokerApp) -> None:
    """Headers stay small, whatever the error says: its beginning is kept, and the end of its traceback."""
    app.send_task("doomed.fail_at_length", (200_000,))
    headers = dead_letter(app).headers
    assert len(headers["broker_app_dead_exception"]) == MAX_EXCEPTION_CHARACTERS
    assert len(headers["broker_app_dead_traceback"]) == MAX_TRACEBACK_CHARACTERS
    assert headers["broker_app_dead_exception"].startswith("ValueError: xxx")


def test_a_compressed_message_is_kept_as_it_came(app: BrokerApp) -> None:
    """The dead letter can be read like the original."""
    app.send_task("workload.fail", ("x" * 10_000,), compression="zlib")
    message = dead_letter(app)
    assert not message.errors
    assert json.loads(message.body)[0] == ["x" * 10_000]


@pytest.mark.version
def test_a_task_that_rejects_its_message(app: BrokerApp) -> None:
    """Celery's Reject leads to the dead letters; the result raises `Rejected`."""
    result = app.send_task("doomed.reject", ("not for us",))
    error = failure(result)
    assert isinstance(error, Rejected)
    assert (error.task_id, error.queue) == (result.id, "default")
    assert "not for us" in str(error)
    headers = dead_letter(app).headers
    assert headers["broker_app_dead_reason"] == "rejected"
    assert "not for us" in headers["broker_app_dead_exception"]


def test_a_task_that_leaves_by_ignore_or_retry_is_not_dead(app: BrokerApp) -> None:
    """Celery's Ignore and Retry acknowledge, as Celery documents."""
    app.send_task("doomed.ignore")
    assert app.send_task("workload.retry_twice", (0.1,)).get(timeout=SECONDS, interval=0.05)["retries"] == 2
    assert depth(app, "shop.default.dead") == 0
    assert depth(app, "shop.default") == 0


def test_a_hard_time_limit_ends_for_good(app: BrokerApp, pool: str) -> None:
    """It does not run again, as it would with Celery's late acknowledgements."""
    if pool != "prefork":
        pytest.skip("Celery's own time limits are prefork's; ours for threads are in test_time_limits.py")
    result = app.send_task("doomed.outlast_its_limit")
    assert isinstance(failure(result), TimeLimitExceeded)
    assert dead_letter(app).headers["broker_app_dead_reason"] == "timed_out"
    assert depth(app, "shop.default") == 0


def test_a_task_that_runs_out_of_memory(app: BrokerApp) -> None:
    """MemoryError fails the task like any error, and the worker goes on to run the next one."""
    assert isinstance(failure(app.send_task("doomed.want_too_much")), OutOfMemory)
    assert dead_letter(app).headers["broker_app_dead_reason"] == "failed"
    assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2


@pytest.mark.version
def test_a_task_that_the_worker_does_not_know(app: BrokerApp) -> None:
    """Its result raises `UnknownTask`, which is Celery's NotRegistered too."""
    result = app.send_task("workload.nobody_knows", (1, 2))
    error = failure(result)
    assert isinstance(error, UnknownTask)
    assert isinstance(error, NotRegistered)
    assert "workload.nobody_knows" in str(error)
    message = dead_letter(app)
    assert message.headers["broker_app_dead_reason"] == "unknown_task"
    assert message.headers["id"] == result.id


@pytest.mark.version
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff", "application/json"),
        (b"[[1, 2], {}", "application/json"),
        (b"\x80", "application/x-python-serialize"),
        (b"[1]", "application/json"),
        (b"[[1, 2], {}, {}, {}]", "application/json"),
        (b"7", "application/json"),
    ],
)
def test_a_body_that_cannot_be_read(app: BrokerApp, body: bytes, content_type: str) -> None:
    """An unreadable body is kept byte for byte, and the result of the id in its headers is `Undecodable`."""
    identity = uuid4().hex
    headers = {"id": identity, "task": "workload.add", "lang": "py"}
    publish_raw(app, body, content_type=content_type, content_encoding="utf-8", application_headers=headers)
    error = failure(app.AsyncResult(identity))
    assert isinstance(error, Undecodable)
    message = dead_letter(app)
    assert message.headers["broker_app_dead_reason"] == "undecodable"
    assert message.headers["broker_app_dead_traceback"]
    assert (message.body.encode() if isinstance(message.body, str) else bytes(message.body)) == body
    assert message.content_type == content_type


@pytest.mark.parametrize(
    "header", [{"expires": "soon"}, {"eta": "soon"}, {"timelimit": "long"}, {"timelimit": [1]}], ids=str
)
def test_a_header_that_is_none(app: BrokerApp, worker: RunningWorker, header: dict[str, Any]) -> None:
    """A header that makes a task invalid is reported like an unreadable body; it ends no worker."""
    result = app.send_task("workload.add", (1, 1), headers=header)
    assert isinstance(failure(result), Undecodable)
    assert dead_letter(app).headers["broker_app_dead_reason"] == "undecodable"
    assert worker.process.poll() is None


def test_messages_that_cannot_be_started_cost_no_slot(app: BrokerApp) -> None:
    """However many of them there are, the worker goes on with all of its slots."""
    bad = [app.send_task("workload.add", (1, 1), headers={"stamped_headers": [["x"]]}) for _ in range(6)]
    for result in bad:
        assert isinstance(failure(result), Undecodable)
    good = [app.send_task("workload.add", (1, 1)) for _ in range(6)]
    assert [result.get(timeout=SECONDS, interval=0.05) for result in good] == [2] * 6


def test_a_message_that_is_no_task(app: BrokerApp) -> None:
    """Without the headers of a task it has no result; it is kept all the same."""
    publish_raw(app, b'{"hello": 1}', content_type="application/json", content_encoding="utf-8")
    message = dead_letter(app)
    assert message.headers["broker_app_dead_reason"] == "undecodable"
    assert json.loads(message.body) == {"hello": 1}


@pytest.mark.version
@pytest.mark.parametrize("member", ["workload.nobody_knows", "doomed.reject"])
def test_a_chord_with_a_dead_member_fails(app: BrokerApp, member: str) -> None:
    """Its result raises; it does not wait for a member that will never be."""
    header = [app.signature("workload.add", (1, 1)), app.signature(member, ("x",))]
    result = chord(header, app=app)(app.signature("workload.xsum"))
    error = failure(result)
    assert isinstance(error, ChordError | TaskFailure), error


@pytest.mark.parametrize("member", ["workload.nobody_knows", "doomed.reject"])
def test_errbacks_of_a_dead_task_run(app: BrokerApp, folder: Path, member: str) -> None:
    """The errback of its failure is called with the typed error."""
    file = folder / uuid4().hex
    errback = app.signature("doomed.remember", (str(file),))
    result = app.send_task(member, ("x",), link_error=errback)
    expected = type(failure(result)).__name__
    wait_until(file.exists, SECONDS, "the errback")
    wait_until(lambda: expected in file.read_text(encoding="utf-8"), SECONDS, "what it was called with")


def test_an_errback_that_cannot_be_sent(app: BrokerApp, worker: RunningWorker) -> None:
    """The failure is dead-lettered all the same, and its message does not stay in the worker."""
    errback = app.signature("doomed.remember", ("x",), queue="nowhere")
    app.send_task("workload.fail", ("for good",), link_error=errback)
    assert dead_letter(app).headers["broker_app_dead_reason"] == "failed"
    assert worker.process.poll() is None


def test_a_queue_that_discards_keeps_nothing(app: BrokerApp, worker: RunningWorker) -> None:
    """With dead_letters = "discard" the message is gone; the log and the result have the reason."""
    result = app.send_task("workload.fail", ("let go",), queue="lopri")
    assert str(failure(result)) == "let go"
    wait_until(lambda: "is discarded, failed: ValueError: let go" in worker.log.read_text(), SECONDS, "the log")
    assert depth(app, "shop.lopri") == 0
    assert depth(app, "shop.lopri.dead") is None


@pytest.mark.parametrize("other", ["gevent", "solo"])
def test_other_pools_keep_their_dead_too(other: str, fresh_vhost_url: str, tmp_path: Path) -> None:
    """Many at once, from greenlets or from the loop itself: each is a dead letter with its reason."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS)
    with running_worker(tmp_path, fresh_vhost_url, "-I", "doomed", "-P", other, "-c", "10") as worker:
        for number in range(20):
            app.send_task("workload.fail", (str(number),))
        app.send_task("workload.nobody_knows")
        wait_until(lambda: depth(app, "shop.default.dead") == 21, SECONDS, "the dead letters")
        assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2
        assert worker.stop() == 0
    reasons = [message.headers["broker_app_dead_reason"] for message in take(app, "shop.default.dead")]
    assert sorted(reasons) == ["failed"] * 20 + ["unknown_task"]
    assert depth(app, "shop.default") == 0
