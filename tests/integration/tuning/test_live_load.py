"""The load of a queue as its workers run it, as `broker-app tune --from-metrics` measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from workers import client, running_worker

from broker_app import BrokerApp
from broker_app.errors import TuningError
from broker_app.tuning.live_load import cpu_seconds, observe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

WAIT_SECONDS, CPU_SECONDS, WATCHED_SECONDS = 0.02, 0.03, 10.0


def workload(folder: Path, url: str) -> BrokerApp:
    """Return an app of the workers' name: what is counted lies in a folder of each app's own."""
    return BrokerApp("workload", config=client(folder, url).config_file, set_as_current=False)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_tasks_wait_and_compute_is_told_apart(tmp_path: Path, fresh_vhost_url: str, pool: str) -> None:
    """Of a task that computes more than it waits both parts are found, whatever the worker itself uses.

    The app decides whether the task ignores its result, which costs the worker less.
    """
    app = workload(tmp_path, fresh_vhost_url)

    @app.task(name="workload.wait_and_compute", ignore_result=True)
    def wait_and_compute(wait_seconds: float, cpu_seconds: float) -> None:
        """The tasks of the workers."""

    with running_worker(tmp_path, fresh_vhost_url, "-P", pool, "-c", "1", "-Q", "lopri"):
        call = app.signature("workload.wait_and_compute", (WAIT_SECONDS, CPU_SECONDS), queue="lopri")
        app.publish_many([call] * 600).run()

        observed = observe(app, "lopri", WATCHED_SECONDS)
        app.control.purge()
        computed = cpu_seconds(app, observed, keeps_results=True, app_name="broker_app", on_leaving=lambda: None)

    (task,) = observed.tasks
    assert (task.name, observed.pool, observed.slots) == ("workload.wait_and_compute", pool, 1)
    assert task.ignore_result
    assert task.seconds >= WAIT_SECONDS + CPU_SECONDS
    assert CPU_SECONDS / 2 < computed < CPU_SECONDS * 1.5
    app.close()


def test_a_queue_that_nobody_serves_here_is_refused(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Without a worker on this host nothing is guessed; the line says how to start one."""
    app = workload(tmp_path, fresh_vhost_url)
    with pytest.raises(TuningError, match=r"expected workers of 'lopri' alone .* `broker-app fleet start`"):
        observe(app, "lopri", 0.1)
    app.close()


def test_a_queue_where_little_happens_is_refused(tmp_path: Path, fresh_vhost_url: str) -> None:
    """If too few tasks end while it is watched, the processor's figures say nothing."""
    app = workload(tmp_path, fresh_vhost_url)
    with (
        running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "1", "-Q", "lopri"),
        pytest.raises(TuningError, match=r"expected 20 tasks of 'lopri' .* 0 did; use --profile"),
    ):
        observe(app, "lopri", 0.5)
    app.close()
