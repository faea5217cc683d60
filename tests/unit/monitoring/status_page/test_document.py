"""The page's figures: what is made of readings and samples, and that nothing but them is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from page_states import Story, Told, full, quiet, samples, snapshot
from waiting import wait_until

from broker_app.metrics.catalogue import FINISHED
from broker_app.metrics.reader import Series
from broker_app.monitoring.broker_reader import BrokerNumbers, QueueNumbers
from broker_app.monitoring.status_page.document import MAX_NODES, PageContext, document
from broker_app.monitoring.status_page.history import (
    STEP_SECONDS,
    STEPS,
    History,
    HistorySample,
    QueueCounts,
    Sampler,
    sample,
)
from broker_app.monitoring.status_page.queues import Objective
from broker_app.monitoring.status_page.waits import quantile, share_within
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.monitoring.collector import Snapshot

NOW = 1_800_000_000.0
OBJECTIVES = {
    "default": Objective(5.0, 99.0),
    "mail": Objective(30.0, 99.0),
    "lopri": Objective(600.0, 99.0),
    "reports": None,
}
ABOUT = PageContext("shop", "worker1", "1.2.3", OBJECTIVES, keeps_dead=frozenset({"default", "mail", "lopri"}))


def made(stories: dict[str, Story] | None = None, about: PageContext = ABOUT, **state: Any) -> dict[str, Any]:
    """Return the document of a state, as a browser has it."""
    stories = full() if stories is None else stories
    content = document(snapshot(stories, NOW, **state), samples(stories, NOW), about)
    found: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return found


def by_name(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the queues of a document."""
    return {queue["name"]: queue for queue in content["queues"]}


def test_every_queue_is_told() -> None:
    """Each queue of the settings is there in order, with its waiting, running and dead messages and its slots."""
    content = made()
    assert [queue["name"] for queue in content["queues"]] == list(OBJECTIVES)
    lopri = by_name(content)["lopri"]
    assert (lopri["ready"], lopri["running"], lopri["dead"], lopri["consumers"]) == (7_070, 32, 1_284, 1)
    assert lopri["fleet"] == {"wanted": 2, "up": 1, "slots": 32, "busy": 32}
    assert lopri["objective"] == {"seconds": 600.0, "percent": 99.0}
    assert (lopri["level"], lopri["word"]) == ("bad", "late")
    assert content["summary"] == {"level": "bad", "text": "lopri is late"}
    assert by_name(content)["reports"]["objective"] is None


def test_the_wait_is_that_of_the_last_minute_or_of_the_head() -> None:
    """The wait is that of started tasks, at the objective's share, or of the oldest message if that is longer."""
    started = Story(finished=lambda _: 100.0, wait=lambda _: 0.2)
    assert by_name(made({"default": started}))["default"]["wait"] == pytest.approx(0.2485)
    stuck = Story(wait=lambda step: step * 15.0, ready=lambda _: 3)
    assert by_name(made({"default": stuck}))["default"]["wait"] == 61 * 15.0
    idle = Story()
    assert by_name(made({"default": idle}))["default"]["wait"] == 0.0


def test_charts_have_a_quarter_of_an_hour() -> None:
    """Each chart has a column for each step, in messages a second; with a short past fewer."""
    chart = by_name(made({"mail": Story(finished=lambda _: 30.0, failed=lambda step: step % 2)}))["mail"]["chart"]
    assert {key: len(values) for key, values in chart.items()} == dict.fromkeys(
        ("published", "finished", "failed", "wait", "ready"), STEPS
    )
    assert set(chart["finished"]) == {30.0 / STEP_SECONDS}
    young = document(snapshot(full(), NOW), samples(full(), NOW)[-3:], ABOUT)
    assert len(by_name(young)["mail"]["chart"]["finished"]) == 2
    assert by_name(document(snapshot(full(), NOW), [], ABOUT))["mail"]["chart"] == {}


def test_a_broker_that_is_down_is_told() -> None:
    """The reason is there, the broker's values are unknown, and the workers' counts go on."""
    content = made(problem="[Errno 111] Connection refused")
    assert content["broker"] == {
        "is_up": False,
        "has_management": False,
        "problem": "[Errno 111] Connection refused",
        "age_seconds": 1.5,
    }
    assert content["summary"] == {"level": "bad", "text": "The broker does not answer"}
    assert content["scheduled"] is content["parked"] is None
    lopri = by_name(content)["lopri"]
    assert [lopri[key] for key in ("ready", "running", "dead", "consumers", "growth")] == [None] * 5
    assert lopri["fleet"]["busy"] == 32
    assert lopri["wait"] > 600
    assert by_name(content)["reports"]["word"] == "unknown"


def test_scheduled_tasks_by_due_time() -> None:
    """The delay lanes are shown by when their messages are due for certain, with their sum."""
    scheduled = made(quiet(), lanes="10s=4 5m=1 2h=7 2d=2")["scheduled"]
    assert scheduled["total"] == 14
    assert [bucket["count"] for bucket in scheduled["buckets"]] == [4, 1, 0, 7, 2]


def test_workers_of_the_host_are_bounded() -> None:
    """Each node is listed with its slots, a dead one as down; the list ends after `MAX_NODES`."""
    nodes = {node["name"]: node for node in made()["nodes"]}
    assert nodes["lopri@worker1"]["busy"] == 32
    assert [nodes["lopri+2@worker1"][key] for key in ("is_up", "slots")] == [False, 0]
    assert len(made({"mail": Story(nodes=MAX_NODES + 5)})["nodes"]) == MAX_NODES


def test_a_queue_that_is_not_on_the_broker() -> None:
    """A queue of the settings that the broker does not have is missing, and so it is said."""
    read = replace(snapshot(quiet(), NOW), broker=BrokerNumbers(is_up=True, has_management=True))
    content = document(read, [], ABOUT)
    assert by_name(content)["mail"]["word"] == "missing"
    assert content["summary"]["text"] == "default is missing, mail is missing, lopri is missing, and 1 more"


def test_a_queue_that_the_settings_no_longer_declare() -> None:
    """It comes last, with its numbers and the command that retires it."""
    left = {"old": QueueNumbers(ready=3, consumers=0, dead=2)}
    read = replace(snapshot(quiet(), NOW), broker=BrokerNumbers(is_up=True, has_management=True, queues=left))
    queue = document(read, [], ABOUT)["queues"][-1]
    assert (queue["name"], queue["word"], queue["ready"], queue["dead"]) == ("old", "not in the settings", 3, 2)
    assert "`broker-app queues retire old`" in queue["reasons"][0]["text"]


def test_hostile_names_are_made_visible() -> None:
    """Text that others control, the names of nodes and the broker's words, has no hidden characters."""
    nasty = "a\u202eb\x1b[31m\x00"
    story = snapshot({"mail": Story()}, NOW)
    numbers = {
        Series(
            series.metric, tuple(f"{label}{nasty}" if "@" in label else label for label in series.labels)
        ): value
        for series, value in story.numbers.items()
    }
    content = document(replace(story, numbers=numbers), [], ABOUT)
    assert content["nodes"][0]["name"] == r"mail@worker1a\u202eb\x1b[31m\x00"
    assert made(problem=nasty)["broker"]["problem"] == r"a\u202eb\x1b[31m\x00"


def test_a_count_that_shrinks_counts_nothing() -> None:
    """When the file of a process goes, what it had counted is no negative number of tasks."""
    before, after = (
        HistorySample(0.0, {"q": QueueCounts(finished=9.0)}),
        HistorySample(15.0, {"q": QueueCounts(finished=2.0)}),
    )
    assert after.since(before, "q").finished == 0.0
    assert after.since(before, "unknown").finished == 0.0


def test_failures_are_those_for_good() -> None:
    """Failed, dead and timed out are failures; a retry and a cancelled task are not."""
    outcomes = ("succeeded", "failed", "retried", "dead", "revoked", "timed_out")
    numbers = {Series(FINISHED, ("q", "t", outcome, "n")): [1.0] for outcome in outcomes}
    counts = sample(replace(snapshot({}, NOW), numbers=numbers)).queues["q"]
    assert (counts.finished, counts.failed) == (6.0, 3.0)


def test_the_history_is_bounded() -> None:
    """However long the server runs, it remembers a quarter of an hour."""
    history = History()
    for number in range(1_000):
        history.add(HistorySample(float(number), {}))
    kept = history.samples()
    assert (len(kept), kept[0].at, kept[-1].at) == (STEPS + 1, 999.0 - STEPS, 999.0)


def test_the_sampler_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """It samples from its start; an unreadable moment is logged, and ends nothing."""
    history = History()
    with Sampler(Told(full()).collect, history):
        wait_until(history.samples, 20, "the first sample")
    assert set(history.samples()[0].queues) == set(OBJECTIVES)

    def fail() -> Snapshot:
        raise OSError("no room")

    with Sampler(fail, history):
        wait_until(lambda: "cannot take a sample" in caplog.text, 20, "the words")


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0), 0.99, None),
        ((10, 0, 0), 0.5, 0.5),
        ((0, 10, 0), 1.0, 2.0),
        ((5, 5, 0), 0.5, 1.0),
        ((0, 0, 3), 0.99, 2.0),
        ((98, 0, 2), 0.99, 2.0),
    ],
)
def test_quantiles(counts: tuple[int, ...], share: float, expected: float | None) -> None:
    """A quantile lies in its bucket, that of nothing is unknown, and beyond the last bound it is that bound."""
    assert quantile((1.0, 2.0), counts, share) == expected


def test_the_share_that_was_in_time() -> None:
    """It is exact at a bound of the buckets; of no task it is unknown."""
    counts = [1.0] * (len(BOUNDS_SECONDS) + 1)
    assert share_within(BOUNDS_SECONDS, counts, 3600.0) == pytest.approx(20 / 21)
    assert share_within(BOUNDS_SECONDS, [0.0] * len(counts), 5.0) is None


def at_rate(ready: Callable[[float], float], *, until: float = 300.0) -> list[HistorySample]:
    """Return samples of a queue, the last one now."""
    moments = [NOW - STEP_SECONDS * step for step in range(int(until / STEP_SECONDS), -1, -1)]
    return [
        HistorySample(at, {"default": QueueCounts(ready=int(ready(at - NOW + until)))}, at - 1.5) for at in moments
    ]


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        (lambda at: 100 + 10 * at, "It grows by 600 a minute."),
        (lambda at: 9_000 - 20 * at, "It is empty in about 2.5 min."),
        (lambda at: 5_000 + 50 * min(at, 200) - 30 * max(0, at - 200), "It is empty in about 6.7 min."),
        (lambda at: 100 + 10 * at + 0.12 * max(0, at - 240) ** 2, "It grows by 939 to 1,248 a minute."),
        (lambda at: 5_000 + 20 * min(at, 270) - 60 * max(0, at - 270), "It is empty in about 2.4 min to 15 min."),
        (lambda at: 5_000 + 20 * min(at, 285) - 60 * max(0, at - 285), ""),
        (lambda at: 5_000 + 3 * (at % 2), ""),
    ],
    ids=["grows", "falls", "grew before", "grows faster", "has turned", "has just turned", "stands"],
)
def test_the_growth_is_what_happens_now(ready: Callable[[float], float], words: str) -> None:
    """Growth is the trend of the last minute: what was before it does not count, and no opposite is ever said."""
    *earlier, last = at_rate(ready)
    now = snapshot({"default": Story(ready=lambda _: last.queues["default"].ready or 0)}, NOW)
    told = by_name(document(now, [*earlier, last], ABOUT))["default"]
    said = [one["text"] for one in told["reasons"] if one["text"].startswith(("It grows", "It is empty"))]
    assert (said or [""])[0].startswith(words) if words else said == []


@pytest.mark.parametrize("wait", [0.0003, 0.03, 1.2, 8.0, 45.0, 400.0, 9_000.0])
def test_the_wait_now_is_certain_or_a_range(wait: float) -> None:
    """The wait is between the bounds in the document, whatever it is."""
    busy = Story(finished=lambda _: 50.0, wait=lambda _: wait, ready=lambda _: 9)
    told = by_name(made({"default": busy}))["default"]
    assert told["wait_low"] <= wait
    assert told["wait_high"] is None or told["wait_high"] >= wait
    assert told["wait_low"] <= told["wait"]
    assert len(told["wait_ranges"]) == len(told["chart"]["wait"])


def test_the_wait_is_gone_when_the_queue_is_empty() -> None:
    """A wait before the queue was empty does not count, although the task started in the last minute."""
    drained = Story(
        finished=lambda _: 50.0,
        wait=lambda step: 0.02 if step > STEPS else 45.0,
        ready=lambda step: 900 * (step < STEPS),
    )
    told = by_name(made({"default": drained}))["default"]
    assert told["wait"] < 1
    assert told["wait_high"] < 1
