"""The counts of workers and producers, compared with the work that was done, on all pools."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from waiting import wait_until
from workers import client, running_worker

from broker_app import publish_many
from broker_app.errors import (
    BrokerUnreachable,
    InvalidDelay,
    InvalidPriority,
    PublishRefused,
    QueueFull,
    UnknownQueue,
)
from broker_app.metrics import catalogue
from broker_app.metrics.catalogue import MetricType, TaskOutcome
from broker_app.metrics.reader import MetricsReader
from broker_app.metrics.registry import folder_of
from broker_app.publishing.spool import Flusher
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from apps import AppMaker
    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.metrics.catalogue import Metric

SECONDS = 60.0
NOTED = 10
SIGN_SECONDS = 5.0
HELD_SECONDS = 1.2
"""Shortest wait of tasks that are sent while their node is away; between two buckets."""


class Counted:
    """The content of the files of an app's processes.

    Args:
        folder: Of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._reader = MetricsReader(folder)

    def __call__(self, metric: Metric, **labels: str) -> float:
        """Return a counter's or gauge's value, a histogram's count, summed over the labels that are not named."""
        return sum(
            sum(values[:-1]) if metric.kind is MetricType.HISTOGRAM else values[0]
            for values in self._found(metric, labels)
        )

    def buckets(self, metric: Metric, **labels: str) -> list[float]:
        """Return the counts of a histogram's buckets."""
        return [sum(counts) for counts in zip(*self._found(metric, labels), strict=True)][:-1]

    def _found(self, metric: Metric, labels: dict[str, str]) -> list[list[float]]:
        reading = self._reader.read()
        assert not reading.unreadable
        numbers = reading.numbers | reading.live
        return [
            values
            for series, values in numbers.items()
            if series.metric is metric
            and labels.items() <= dict(zip(metric.labels, series.labels, strict=True)).items()
        ]


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    """Return what the workers of a test counted."""
    return Counted(tmp_path / "state" / "metrics" / "workload")


def outcomes(counted: Counted) -> dict[str, float]:
    """Return how many messages ended, by outcome."""
    return {
        outcome.value: found for outcome in TaskOutcome if (found := counted(catalogue.FINISHED, outcome=outcome))
    }


def note_waits(app: BrokerApp, file: Path) -> None:
    """Send tasks that write down how long they waited."""
    for _ in range(NOTED):
        app.send_task("workload.note_wait", (str(file), time.time()), queue="lopri")


def assert_waits(counts: list[float], file: Path) -> None:
    """Hold a histogram against what the tasks saw, a little later, and what those held back must have waited."""
    waits = [float(line) for line in file.read_text().splitlines()]
    counted = list(accumulate(counts))
    assert counted[-1] == len(waits) == 2 * NOTED
    for bound, number in zip(BOUNDS_SECONDS, counted, strict=False):
        assert number >= sum(wait <= bound for wait in waits), f"{bound} s: {counts}, {waits}"
        assert bound > HELD_SECONDS or number <= NOTED, f"{bound} s: {counts}, {waits}"


@pytest.mark.version
@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["threads", "prefork", "gevent"])
def test_every_count_is_exact_also_over_a_restart(
    tmp_path: Path, fresh_vhost_url: str, counted: Counted, pool: str
) -> None:
    """On each pool every task counts once under its queue, name, outcome and wait; a restarted node counts on."""
    app, waits = client(tmp_path, fresh_vhost_url), tmp_path / "waits"
    options = ("-P", pool, "-c", "2", "-Q", "default,lopri")
    for run in (1, 2):
        if run == 2:
            note_waits(app, waits)
            sent = time.time()
            wait_until(lambda sent=sent: time.time() - sent > HELD_SECONDS, SECONDS, "their wait")
        with running_worker(tmp_path, fresh_vhost_url, *options, name="one"):
            if run == 1:
                note_waits(app, waits)
            for number in range(10):
                app.send_task("workload.add", (1, number))
            app.send_task("workload.add", (1, 1), countdown=0.5)
            for _ in range(3):
                app.send_task("workload.fail", ("no",))
            app.send_task("workload.retry_twice", (0.1,))
            app.send_task("workload.add", (1, 1), expires=-5)
            app.send_task("workload.unheard_of")
            wanted = {"succeeded": 22 * run, "failed": 3 * run, "retried": 2 * run, "dead": run, "revoked": run}
            wait_until(lambda wanted=wanted: outcomes(counted) == wanted, SECONDS, f"{wanted}")
    app.close()

    assert_waits(counted.buckets(catalogue.WAITED_SECONDS, queue="lopri"), waits)
    assert_counts_of_two_runs(counted)


def assert_counts_of_two_runs(counted: Counted) -> None:
    """Compare what is counted with what both runs sent."""
    assert counted(catalogue.RECEIVED) == 2 * 29
    assert counted(catalogue.RECEIVED, task="unknown") == 2
    assert counted(catalogue.REDELIVERED) == 0
    assert counted(catalogue.FINISHED, queue="lopri", task="workload.note_wait", outcome="succeeded") == 2 * 10
    assert counted(catalogue.WAITED_SECONDS, queue="default") == 2 * 17
    assert counted(catalogue.WAITED_BROKER_SECONDS) == counted(catalogue.WAITED_PREFETCH_SECONDS) == 2 * 27
    assert counted(catalogue.LATE_SECONDS) == 2 * 3
    assert counted(catalogue.RUN_SECONDS, task="workload.fail") == 2 * 3
    assert counted(catalogue.RUN_SECONDS) == 2 * 27
    assert counted(catalogue.DEAD_LETTERS, queue="default", reason="failed") == 2 * 3
    assert counted(catalogue.DEAD_LETTERS, reason="unknown_task") == 2
    assert counted(catalogue.PUBLISHED, queue="default", task="workload.retry_twice") == 2 * 2
    assert counted(catalogue.WORKER_UP) == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_wait_is_in_its_bucket_and_slots_are_told(
    tmp_path: Path, fresh_vhost_url: str, counted: Counted, pool: str
) -> None:
    """Waits for the worker and for a slot are measured; running and reserved tasks are counted meanwhile."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-Q", "default", name="first"):
        pass  # declares the queues
    published = time.time()
    for _ in range(6):
        app.send_task("workload.note_and_wait", (str(tmp_path / "starts"), 6.0))
    options = ("-P", pool, "-c", "2", "-Q", "default", "--prefetch-multiplier", "2")
    with running_worker(tmp_path, fresh_vhost_url, *options, name="one"):
        wait_until(lambda: counted(catalogue.SLOTS_BUSY) == 2, SECONDS, "two busy slots")
        began = time.time() - published
        wait_until(lambda: counted(catalogue.PREFETCHED) == 4, SECONDS, "two reserved tasks")
        assert counted(catalogue.SLOTS, queue="default") == 2
        assert counted(catalogue.RESERVED) == 2
        assert counted(catalogue.PREFETCH_LIMIT) == 4
        wait_until(lambda: counted(catalogue.WAITED_SECONDS) == 4, SECONDS, "the second pair")

        def seconds_since_sign() -> float:
            live = counted._reader.read().live.items()
            return time.time() - max(at for series, (at,) in live if series.metric is catalogue.WORKER_UP)

        wait_until(lambda: seconds_since_sign() < SIGN_SECONDS, SECONDS, "a sign of life")
    app.close()

    in_prefetch = counted.buckets(catalogue.WAITED_PREFETCH_SECONDS)
    five, ten = BOUNDS_SECONDS.index(5.0), BOUNDS_SECONDS.index(10.0)
    assert sum(in_prefetch[: five + 1]) >= 2
    assert sum(in_prefetch[ten:]) >= 2  # one run before them
    longest = max(n for n, count in enumerate(counted.buckets(catalogue.WAITED_BROKER_SECONDS)) if count)
    assert BOUNDS_SECONDS[longest - 1] < began + 6 * 4


@pytest.mark.timeout(180)
def test_tasks_that_were_ended_by_their_time_limit(tmp_path: Path, fresh_vhost_url: str, counted: Counted) -> None:
    """Both limits, the one that the task can catch and the one that ends its process, count as timed out, once."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "prefork", "-c", "2"):
        arguments = (str(tmp_path / "starts"), 60.0)
        app.send_task("workload.note_and_wait", arguments, soft_time_limit=1, time_limit=30)
        app.send_task("workload.note_and_wait", arguments, time_limit=1)
        wait_until(lambda: outcomes(counted) == {"timed_out": 2}, SECONDS, "two time-outs")
        app.send_task("workload.add", (1, 1))
        wait_until(lambda: outcomes(counted) == {"timed_out": 2, "succeeded": 1}, SECONDS, "a task after them")
    app.close()


@pytest.mark.timeout(180)
def test_a_killed_worker_loses_no_written_count(tmp_path: Path, fresh_vhost_url: str, counted: Counted) -> None:
    """After SIGKILL the written counts are there, the unfinished task has not ended, its redelivery is counted."""
    app = client(tmp_path, fresh_vhost_url)
    options = ("-P", "threads", "-c", "4", "-Q", "default")
    with running_worker(tmp_path, fresh_vhost_url, *options, name="one") as worker:
        for number in range(50):
            app.send_task("workload.add", (1, number))
        wait_until(lambda: outcomes(counted) == {"succeeded": 50}, SECONDS, "50 tasks")
        app.send_task("workload.note_and_wait", (str(tmp_path / "starts"), 4.0))
        wait_until((tmp_path / "starts").exists, SECONDS, "the long task")
        wait_until(lambda: counted(catalogue.RECEIVED) == 51, SECONDS, "the count of its message")
        worker.kill()
    assert outcomes(counted) == {"succeeded": 50}
    assert counted(catalogue.SLOTS) == 0
    with running_worker(tmp_path, fresh_vhost_url, *options, name="one"):
        wait_until(lambda: outcomes(counted) == {"succeeded": 51}, SECONDS, "the long task again")
    assert counted(catalogue.REDELIVERED, task="workload.note_and_wait") == 1
    assert counted(catalogue.RECEIVED) == 52
    app.close()


def test_what_a_producer_publishes_and_what_is_refused(make_app: AppMaker) -> None:
    """Each call counts once, confirmed with its time or refused by reason; publish_many counts each item."""
    app = make_app("[queues.default]\n[queues.lopri]\n", broker_transport_options={})
    counted = Counted(folder_of(app))
    for _ in range(3):
        app.send_task("a", queue="lopri", countdown=100)
    signatures = [app.signature("a", args=(number,), queue="default") for number in range(500)]
    assert publish_many(signatures, app=app).run().accepted == 500

    with pytest.raises(UnknownQueue):
        app.send_task("b", queue="lopri_typo")
    with pytest.raises(InvalidDelay):
        app.send_task("b", countdown=-1)
    with pytest.raises(InvalidPriority):
        app.send_task("b", priority=9)
    assert counted(catalogue.PUBLISHED, queue="lopri", task="a") == 3
    assert counted(catalogue.PUBLISHED, queue="default") == 500
    assert counted(catalogue.CONFIRM_SECONDS) == 3
    assert counted(catalogue.REFUSED, queue="other", task="b", reason="routing") == 3
    assert counted(catalogue.REFUSED) == 3


def test_what_the_broker_does_not_take(make_app: AppMaker, management: Management, fresh_vhost_url: str) -> None:
    """A full queue, a message that the broker refuses, and no broker at all count under their reasons."""
    app = make_app()
    counted = Counted(folder_of(app))
    app.send_task("a")
    vhost = fresh_vhost_url.rpartition("/")[2]
    limits = {"max-length": 1, "overflow": "reject-publish"}
    management.put(f"policies/{vhost}/full", {"pattern": "^default$", "definition": limits, "apply-to": "queues"})
    wait_until(lambda: _is_full(app), SECONDS, "a full queue")
    with pytest.raises(PublishRefused):
        app.send_task("a", user_id="somebody else")
    nowhere = make_app(
        "[publish]\ntimeout_seconds = 0.5\n[queues.default]\n", url="amqp://guest:guest@127.0.0.1:1//"
    )
    with pytest.raises(BrokerUnreachable):
        nowhere.send_task("a")
    assert counted(catalogue.REFUSED, queue="default", task="a", reason="queue_full") >= 1
    assert counted(catalogue.REFUSED, queue="default", task="a", reason="refused") == 1
    assert counted(catalogue.REFUSED, queue="default", task="a", reason="unreachable") == 1


def test_nothing_is_counted_when_the_settings_say_so(make_app: AppMaker) -> None:
    """With `enabled = false` no file is made, and publishing goes on."""
    app = make_app("[metrics]\nenabled = false\n[queues.default]\n")
    app.send_task("a")
    assert not folder_of(app).exists()
    assert app.metrics.become("n@h") is None


def test_publishing_goes_on_where_nothing_can_be_written(make_app: AppMaker, tmp_path: Path) -> None:
    """An unusable state folder does not stop publishing."""
    app = make_app()
    (tmp_path / "state").write_text("in the folder's place")
    assert app.send_task("a").id


def test_a_spooled_task_counts_when_it_is_sent(make_app: AppMaker) -> None:
    """A spooled task is neither published nor refused; it counts once the broker has it."""
    spool = "spool = true\n[queues.default]\n"
    nowhere = make_app(f"[publish]\ntimeout_seconds = 0.5\n{spool}", url="amqp://guest:guest@127.0.0.1:1//")
    app = make_app(f"[publish]\n{spool}")
    counted = Counted(folder_of(app))
    nowhere.send_task("a")
    assert (counted(catalogue.PUBLISHED), counted(catalogue.REFUSED)) == (0, 0)
    assert app.amqp.publisher.store.status().waiting == 1
    flusher = Flusher(app, app.amqp.publisher.store)
    wait_until(lambda: flusher.flush(5.0).sent, SECONDS, "the task to be sent")
    assert counted(catalogue.PUBLISHED, queue="default", task="a") == 1


def _is_full(app: BrokerApp) -> bool:
    try:
        app.send_task("a")
    except QueueFull:
        return True
    return False
