"""A worker whose event loop is blocked by a coroutine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from configured import configured_client
from waiting import wait_until
from workers import running_worker

from broker_app.coroutines.loop_watch import BLOCKED_SECONDS
from broker_app.metrics.catalogue import LOOP_LAG
from broker_app.metrics.reader import MetricsReader
from broker_app.monitoring.probes import Probe, judge
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_it_is_seen(tmp_path: Path, fresh_vhost_url: str, pool: str) -> None:
    """By the log, the metric and the live probe, until it turns again."""
    client = configured_client(tmp_path, fresh_vhost_url, "blocked_loop_seconds = 2\n[queues.default]\n")
    reader, release = MetricsReader(tmp_path / "state" / "metrics" / "workload"), tmp_path / "release"

    def lag() -> float:
        found = (value for series, (value, *_) in reader.read().live.items() if series.metric is LOOP_LAG)
        return next(found, 0.0)

    def is_live() -> bool:
        heartbeat = Heartbeat.read(tmp_path / "state" / "run" / "workload" / "worker.alive")
        return judge("worker", Probe.LIVE, heartbeat, client.settings).is_ok

    with running_worker(tmp_path, fresh_vhost_url, "-I", "coroutine_tasks", "-P", pool, "-c", "2") as worker:
        wait_until(is_live, SECONDS, "a worker that is live")
        result = client.send_task("coroutine_tasks.block", (str(release),))
        wait_until(lambda: not is_live(), SECONDS, "the probe to fail")
        wait_until(lambda: lag() >= BLOCKED_SECONDS, SECONDS, "the lag")
        release.touch()
        wait_until(is_live, SECONDS, "the probe to pass")
        wait_until(lambda: b"runs again" in worker.log.read_bytes(), SECONDS, "the second line")
    (line,) = (line for line in worker.log.read_text(encoding="utf-8").splitlines() if "blocked for 1 s" in line)
    assert f"coroutine_tasks.block[{result.id}]" in line
    assert line.endswith(" in block")
    assert " in hold, called at " in line
