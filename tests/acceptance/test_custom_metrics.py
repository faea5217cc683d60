"""A project's own metrics, updated in tasks on every pool, and read from `broker-app metrics serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest
from fleets import SCRIPTS, host
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from served import serving
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from fleets import Host
    from served import Served

SECONDS = 60.0
POOLS = ("prefork", "threads", "gevent", "solo")
TASKS = 7

SETTINGS = """
default_queue = "threads"
[queues.prefork.fleet]
pool = "prefork"
concurrency = 2
max_tasks_per_child = 3
[queues.threads.fleet]
concurrency = 2
[queues.gevent.fleet]
pool = "gevent"
concurrency = 2
[queues.solo.fleet]
pool = "solo"
concurrency = 1
"""

SHOP = """
from prometheus_client import Counter, Gauge, Histogram

ORDERS = Counter("shop_orders", "Orders.", ["pool"])
SECONDS = Histogram("shop_order_seconds", "Seconds.", ["pool"], buckets=(0.5, 1.0))
BASKET = Gauge("shop_basket", "Basket.", ["pool"])

from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def order(pool):
    ORDERS.labels(pool).inc()
    SECONDS.labels(pool).observe(0.7)
    BASKET.labels(pool).set(5)
"""

SEND = f"""
import shop
for pool in {{pools}}:
    for _ in range({TASKS}):
        shop.order.apply_async([pool], queue=pool)
shop.ORDERS.labels("producer").inc()
"""


def families(served: Served, accept: str = "") -> dict[str, list[tuple[str, dict[str, str], float]]]:
    """Return the samples of each family of the page, as the library's parser of its format reads them."""
    request = Request(f"{served.url}/metrics", headers={"Accept": accept})  # noqa: S310 - our own server
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        is_openmetrics = answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        text = answer.read().decode()
    assert is_openmetrics == bool(accept)
    parse = openmetrics_families if is_openmetrics else text_string_to_metric_families
    return {family.name: [sample[:3] for sample in family.samples] for family in parse(text)}


def counted(served: Served, pool: str) -> dict[str, float]:
    """Return the sums of the samples that tell of a pool."""
    sums: dict[str, float] = {}
    for name, samples in families(served).items():
        for sample, labels, value in samples if name.startswith("shop_") else ():
            if labels["pool"] == pool:
                key = sample + labels.get("le", "")
                sums[key] = sums.get(key, 0.0) + value
    return sums


def check(machine: Host, served: Served, tasks: int, *pools: str) -> None:
    """Send tasks to some pools, and wait until the page has as many in all."""
    sent = machine.run(str(SCRIPTS / "python"), "-c", SEND.format(pools=pools))
    assert sent.returncode == 0, sent.stderr
    for pool in pools:
        wait_until(lambda pool=pool: counted(served, pool).get("shop_orders_total") == tasks, SECONDS, pool)
        wait_until(lambda pool=pool: counted(served, pool)["shop_order_seconds_count"] == tasks, SECONDS, pool)
        found = counted(served, pool)
        assert [found[f"shop_order_seconds_bucket{bound}"] for bound in ("0.5", "1.0", "+Inf")] == [
            0,
            tasks,
            tasks,
        ]
        assert found["shop_order_seconds_sum"] == pytest.approx(0.7 * tasks)
        assert found["shop_basket"] % 5 == 0
        assert found["shop_basket"] > 0


@pytest.mark.timeout(300)
def test_the_metrics_of_a_project_on_every_pool(tmp_path: Path, fresh_vhost_url: str) -> None:
    """What tasks count is on the page, summed over processes and over a restart, in both formats."""
    with host(tmp_path / "project", fresh_vhost_url) as machine:
        machine.write(SETTINGS)
        (machine.folder / "shop.py").write_text(SHOP)
        machine.start(app="shop")
        with serving(machine) as served:
            check(machine, served, TASKS, *POOLS)
            stopped = machine.fleet("stopwait", "prefork", app="shop")
            assert stopped.returncode == 0, stopped.stderr
            before = counted(served, "prefork")
            assert "shop_basket" not in before
            assert before["shop_orders_total"] == TASKS
            machine.start("prefork", app="shop")
            check(machine, served, 2 * TASKS, "prefork")
            told, text = families(served, "application/openmetrics-text;version=1.0.0"), families(served)
            assert told.keys() == text.keys()
            assert all(told[name] == text[name] for name in told if name.startswith("shop_"))
            assert counted(served, "producer") == {}
            assert not [name for name in told if name.startswith(("process_", "python_"))]
        files = list((machine.state / "metrics" / "shop" / "custom").iterdir())
        assert len(files) <= len(POOLS) + 4, "a file for each process of a pool, and not for each that there was"
