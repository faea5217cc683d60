"""The text that Prometheus reads, read back by the parser of its own Python client."""

from __future__ import annotations

import gzip
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from broker_app.metrics.catalogue import (
    FINISHED,
    METRICS,
    PARKED,
    PUBLISHED,
    RUN_SECONDS,
    SCRAPE_SECONDS,
    SLOTS,
    WAITED_SECONDS,
    MetricType,
    TaskOutcome,
)
from broker_app.metrics.reader import Numbers, Series
from broker_app.monitoring.exposition import encode, registry_of
from broker_app.queues.objectives import BOUNDS_SECONDS

BUCKETS = len(BOUNDS_SECONDS)


def render(numbers: Numbers) -> str:
    """Return the text format."""
    return encode(registry_of(numbers))[0].decode()


def samples(numbers: Numbers) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of the rendered text, as the parser has it."""
    found = {}
    for family in text_string_to_metric_families(render(numbers)):
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.items())] = sample.value
    return found


def test_counters_and_gauges() -> None:
    """A counter and a gauge are read back with their labels and values."""
    numbers = {
        Series(PUBLISHED, ("lopri", "shop.pack")): [12345678.0],
        Series(SLOTS, ("lopri", "lopri@host")): [32.0],
        Series(SCRAPE_SECONDS, ()): [0.0125],
    }
    text = render(numbers)
    assert 'broker_app_tasks_published_total{queue="lopri",task="shop.pack"} 1.2345678e+07\n' in text
    assert "\nbroker_app_metrics_scrape_seconds 0.0125\n" in text
    assert samples(numbers) == {
        ("broker_app_tasks_published_total", (("queue", "lopri"), ("task", "shop.pack"))): 12345678.0,
        ("broker_app_worker_slots", (("node", "lopri@host"), ("queue", "lopri"))): 32.0,
        ("broker_app_metrics_scrape_seconds", ()): 0.0125,
    }


def test_histograms_are_cumulative() -> None:
    """Each bucket has what is not longer than its bound, +Inf has all, and count and sum agree with them."""
    values = [1.0, 2.0, *[0.0] * (BUCKETS - 3), 4.0, 3.0, 99.5]
    found = samples({Series(WAITED_SECONDS, ("q", "n@h"), BOUNDS_SECONDS): values})
    labels = (("node", "n@h"), ("queue", "q"))
    buckets = {
        dict(key)["le"]: value for (name, key), value in found.items() if name.endswith("waited_seconds_bucket")
    }
    assert list(buckets) == [*(repr(bound) for bound in BOUNDS_SECONDS), "+Inf"]
    assert (buckets["0.001"], buckets["0.0025"], buckets["1800.0"]) == (1.0, 3.0, 3.0)
    assert (buckets["3600.0"], buckets["+Inf"]) == (7.0, 10.0)
    assert found["broker_app_task_waited_seconds_count", labels] == 10.0
    assert found["broker_app_task_waited_seconds_sum", labels] == 99.5


@pytest.mark.parametrize(
    "task", ['a "quoted" name', "back\\slash", "two\nlines", "<script>alert(1)</script>", "ключ"]
)
def test_a_label_may_hold_anything(task: str) -> None:
    """Quotes, backslashes, new lines and markup are read back as they were, and end no label early."""
    found = samples({Series(PUBLISHED, ("q", task)): [1.0]})
    assert found == {("broker_app_tasks_published_total", (("queue", "q"), ("task", task))): 1.0}


def test_every_metric_says_what_it_is() -> None:
    """Each metric that is there has one line of help and one of type, before its samples; others have none."""
    families = list(text_string_to_metric_families(render({Series(PARKED, ()): [0.0]})))
    assert [(family.name, family.type, family.documentation) for family in families] == [
        (PARKED.name, "gauge", PARKED.help)
    ]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_is_still_read(value: float) -> None:
    """A value that a damaged file may hold does not spoil the whole answer."""
    assert len(samples({Series(PARKED, ()): [value]})) == 1


NUMBERS: Numbers = {
    Series(PUBLISHED, ("lopri", 'a "b"\n\\')): [3.0],
    Series(SLOTS, ("lopri", "lopri@host")): [32.0],
    Series(WAITED_SECONDS, ("lopri", "lopri@host"), BOUNDS_SECONDS): [1.0] * (BUCKETS + 2),
}


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    """Prometheus' own Accept header gets OpenMetrics, with the same families and samples as in the text format."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    body, headers = encode(registry_of(NUMBERS), accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert body.endswith(b"# EOF\n")
    told = list(openmetrics_families(body.decode()))
    assert told == list(text_string_to_metric_families(render(NUMBERS)))
    assert [family.type for family in told] == ["counter", "histogram", "gauge"]


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4", "text/plain;version=x"])
def test_everybody_else_gets_the_text_format(accept: str) -> None:
    """Without OpenMetrics in the Accept header the answer is the text format 0.0.4, without `_created` series."""
    body, headers = encode(registry_of(NUMBERS), accept)
    assert headers == {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    assert body.decode() == render(NUMBERS)
    assert b"# TYPE broker_app_tasks_published_total counter\n" in body
    assert b"_created" not in body


def test_gzip() -> None:
    """A client that accepts gzip gets the same text, compressed."""
    body, headers = encode(registry_of(NUMBERS), accept_encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).decode() == render(NUMBERS)


def test_a_large_host_is_small_and_quick_to_tell() -> None:
    """Ten queues, a hundred tasks and twenty nodes are less than a megabyte; every metric is among them."""
    queues, tasks = [f"queue-{n}" for n in range(10)], [f"shop.tasks.some_task_{n}" for n in range(100)]
    numbers: Numbers = {}
    for metric in METRICS.values():
        if metric.kind is MetricType.HISTOGRAM and "node" in metric.labels:
            for n in range(20):
                numbers[Series(metric, (queues[n % 10], f"{queues[n % 10]}+{n}@host"), BOUNDS_SECONDS)] = [1.0] * (
                    BUCKETS + 2
                )
    for n, task in enumerate(tasks):
        numbers[Series(RUN_SECONDS, (queues[n % 10], task), BOUNDS_SECONDS)] = [1.0] * (BUCKETS + 2)
        for node in range(2):
            for outcome in TaskOutcome:
                labels = (queues[n % 10], task, outcome.value, f"{queues[n % 10]}+{node}@host")
                numbers[Series(FINISHED, labels)] = [1.0]
    started = time.process_time()
    text = render(numbers)
    assert len(text.encode()) < 1_000_000
    assert (
        time.process_time() - started < 2
    )  # a hundred times what it takes: only to find what grows with a square
