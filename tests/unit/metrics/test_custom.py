"""A project's own metrics, copied by processes and read back as the metrics server reads them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from broker_app.metrics.custom import CustomMetrics
from broker_app.monitoring.custom_metrics import CustomMetricsReader
from broker_app.monitoring.exposition import encode, registry_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Leave the default registry as it was."""
    known = set(REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - known:
        REGISTRY.unregister(collector)


def text(folder: Path) -> str:
    """Return the page, which must be valid in both formats and say the same."""
    registry = registry_of({}, CustomMetricsReader(folder).families())
    body, _ = encode(registry)
    classic = list(text_string_to_metric_families(body.decode()))
    assert list(openmetrics_families(encode(registry, OPENMETRICS)[0].decode())) == classic
    return body.decode()


def samples(folder: Path) -> dict[str, float]:
    """Return the samples by name and labels."""
    lines = [line.rpartition(" ") for line in text(folder).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def end(metrics: CustomMetrics) -> None:
    """Do with a process's file what its end does: the lock is free."""
    metrics.copy()
    metrics._after_fork()


def test_all_processes_are_summed(tmp_path: Path) -> None:
    """Counters, histograms and summaries of two processes are one, with their help, and no `_created` series."""
    orders = Counter("shop_orders", "Orders.", ["shop"])
    seconds = Histogram("shop_seconds", "Seconds.", ["shop"], buckets=(0.5, 1.0))
    weight = Summary("shop_weight", "Weight.", ["shop"])
    orders.labels("a").inc(2)
    for shop in ("a", "b"):
        for value in (0.1, 0.7, 9.0):
            seconds.labels(shop).observe(value)
        weight.labels(shop).observe(5)
    one, two = CustomMetrics(tmp_path), CustomMetrics(tmp_path)
    for process in (one, two, one, two):
        process.copy()
    orders.labels("a").inc()
    one.copy()
    expected = {'shop_orders_total{shop="a"}': 5.0}
    for shop in ("a", "b"):
        expected |= {
            f'shop_seconds_bucket{{le="0.5",shop="{shop}"}}': 2.0,
            f'shop_seconds_bucket{{le="1.0",shop="{shop}"}}': 4.0,
            f'shop_seconds_bucket{{le="+Inf",shop="{shop}"}}': 6.0,
            f'shop_seconds_count{{shop="{shop}"}}': 6.0,
            f'shop_seconds_sum{{shop="{shop}"}}': 19.6,
            f'shop_weight_count{{shop="{shop}"}}': 2.0,
            f'shop_weight_sum{{shop="{shop}"}}': 10.0,
        }
    assert samples(tmp_path) == expected
    assert "# HELP shop_orders_total Orders.\n# TYPE shop_orders_total counter\n" in text(tmp_path)


def test_a_restarted_process_counts_on(tmp_path: Path) -> None:
    """A new process continues the file of one that ended: counters neither go back nor count twice."""
    orders = Counter("shop_orders", "Orders.")
    orders.inc(5)
    end(CustomMetrics(tmp_path))
    for _ in range(3):
        orders.reset()
        process = CustomMetrics(tmp_path)
        process.copy()
        orders.inc()
        end(process)
    assert samples(tmp_path) == {"shop_orders_total": 8.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_forked_child_copies_what_it_counted_itself(tmp_path: Path) -> None:
    """What the parent had counted before the fork is counted once, and so is what both count after it."""
    orders, basket = Counter("shop_orders", "Orders."), Gauge("shop_basket", "Basket.")
    orders.inc(5)
    basket.set(3)
    metrics = CustomMetrics(tmp_path)
    metrics.prepare()
    pid = os.fork()
    if not pid:
        metrics.start()
        orders.inc(10)
        metrics.stop()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    orders.inc(100)
    metrics.copy()
    assert samples(tmp_path) == {"shop_orders_total": 115.0, f'shop_basket{{pid="{os.getpid()}"}}': 3.0}


@pytest.mark.parametrize(
    ("mode", "live", "ended"),
    [
        ("all", {"pid": 7.0}, {}),
        ("sum", {"": 11.0}, {"": 11.0}),
        ("max", {"": 7.0}, {"": 7.0}),
        ("min", {"": 4.0}, {"": 4.0}),
        ("mostrecent", {"": 7.0}, {"": 7.0}),
        ("livesum", {"": 11.0}, {}),
    ],
)
def test_gauges_are_merged_as_the_library_merges_them(
    tmp_path: Path, mode: Any, live: dict[str, float], ended: dict[str, float]
) -> None:
    """Each multi-process mode is kept; a gauge without one has a series for each live process."""
    gauge = Gauge("shop_basket", "Basket.", multiprocess_mode=mode)
    one, two = CustomMetrics(tmp_path), CustomMetrics(tmp_path)
    for process, value in ((one, 4), (two, 7)):
        gauge.set(value)
        process.copy()
    label = f'{{pid="{os.getpid()}"}}'
    assert samples(tmp_path) == {f"shop_basket{label if key else ''}": value for key, value in live.items()}
    for process in (one, two):
        process._after_fork()
    assert list(samples(tmp_path).values()) == list(ended.values())
    gauge.set(0)
    CustomMetrics(tmp_path).copy()
    if ended:
        assert samples(tmp_path) == {"shop_basket": ended[""]}


def test_a_removed_label_is_gone_if_it_is_a_gauges(tmp_path: Path) -> None:
    """A gauge without the label loses the series; a counter keeps what it counted, and counts on."""
    basket, orders = Gauge("shop_basket", "Basket.", ["shop"]), Counter("shop_orders", "Orders.", ["shop"])
    metrics = CustomMetrics(tmp_path)
    for shop in ("a", "b"):
        basket.labels(shop).set(1)
        orders.labels(shop).inc()
    metrics.copy()
    basket.remove("a")
    orders.remove("a")
    metrics.copy()
    orders.labels("a").inc(5)
    metrics.copy()
    found = samples(tmp_path)
    assert [name for name in found if "basket" in name] == [f'shop_basket{{pid="{os.getpid()}",shop="b"}}']
    assert found['shop_orders_total{shop="a"}'] == 6.0


class Collector:
    """A project's own collector."""

    def describe(self) -> list[CounterMetricFamily]:
        """Return its name."""
        return [CounterMetricFamily("shop_collected", "Collected.")]

    def collect(self) -> list[CounterMetricFamily]:
        """Fail: it may ask a database."""
        raise AssertionError("it was collected")


def test_what_cannot_be_summed_is_left_out(tmp_path: Path) -> None:
    """Collectors, Info, Enum, the library's own metrics, and a gauge whose function fails stop no others."""
    REGISTRY.register(Collector())
    Info("shop_version", "Version.").info({"version": "1"})
    Enum("shop_state", "State.", states=["open", "closed"])
    Gauge("shop_broken", "Broken.").set_function(lambda: 1 / 0)
    Counter("shop_orders", "Orders.").inc()
    CustomMetrics(tmp_path).copy()
    assert samples(tmp_path) == {"shop_orders_total": 1.0}


def test_names_that_are_taken_do_not_break_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A metric with the name of one of broker-app's is left out and named in the log; its neighbours are there."""
    Counter("broker_app_tasks_published", "Ours.").inc()
    Gauge("broker_app_task_run_seconds_sum", "A part of ours.").set(1)
    Counter("broker_app_of_the_project", "Another.").inc()
    CustomMetrics(tmp_path).copy()
    assert samples(tmp_path) == {"broker_app_of_the_project_total": 1.0}
    assert "broker_app_tasks_published is left out" in caplog.text


def test_new_bounds_after_a_restart(tmp_path: Path) -> None:
    """A histogram whose bounds were changed has those of before and after, and its buckets still rise."""
    for buckets in ((1.0, 3.0), (2.0,)):
        seconds = Histogram("shop_seconds", "Seconds.", buckets=buckets)
        seconds.observe(0.5)
        end(CustomMetrics(tmp_path))
        REGISTRY.unregister(seconds)
    found = samples(tmp_path)
    assert [found[f'shop_seconds_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "3.0", "+Inf")] == [
        1,
        2,
        2,
        2,
    ]


def test_a_damaged_or_hostile_file_spoils_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is none is logged once; odd labels become valid text; a truncated file is restored."""
    orders = Counter("shop_orders", "Orders.", ["shop"])
    for shop in ('"\n\\', "\ud800", "ключ"):
        orders.labels(shop).inc()
    (tmp_path / "custom.7.metrics").write_bytes(os.urandom(100))
    metrics = CustomMetrics(tmp_path)
    metrics.copy()
    reader = CustomMetricsReader(tmp_path)
    for _ in range(2):
        assert [len(family.samples) for family in reader.families()] == [3]
    assert caplog.text.count("custom.7.metrics") == 1
    before = text(tmp_path)
    os.truncate(tmp_path / "custom.0.metrics", 0)
    metrics.copy()
    assert text(tmp_path) == before


def test_a_folder_that_cannot_be_made_costs_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written, the process goes on and warns once."""
    (tmp_path / "file").write_text("in the folder's place")
    Counter("shop_orders", "Orders.").inc()
    metrics = CustomMetrics(tmp_path / "file")
    for _ in range(2):
        metrics.copy()
    assert len(caplog.records) == 1
