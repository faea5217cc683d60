"""Live figures of a queue, as `broker-app advise` watches them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from workers import client, running_worker

from broker_app.cli.advise import advise_command
from broker_app.cli.command import CliContext
from broker_app.tuning.advice import LoadVerdict, Remedy, advise
from broker_app.tuning.live_workers import watch

if TYPE_CHECKING:
    from pathlib import Path

RUN_SECONDS = 0.4
SLOTS = 2


def test_figures_are_found_from_outside(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Run time and backlog are found while two slots have work; a queue without workers is unserved."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", str(SLOTS), "-Q", "lopri"):
        calls = [
            app.signature("workload.note_and_wait", (str(tmp_path / "notes"), RUN_SECONDS), queue="lopri")
        ] * 100
        app.publish_many(calls).run()

        watched = watch(app, (), 3.0)
        context = CliContext(app=lambda: app, app_name="workload", is_verbose=False)
        shown = CliRunner().invoke(advise_command, ["lopri", "--seconds", "1", "--json"], obj=context)

    default, lopri = map(advise, watched.loads)
    assert (default.verdict, default.remedy) == (LoadVerdict.UNSERVED, Remedy.START)
    assert (lopri.load.slots, lopri.load.nodes) == (SLOTS, 1)
    assert lopri.verdict in {LoadVerdict.SHORT, LoadVerdict.FITS}
    assert lopri.drain_seconds
    assert lopri.load.run_seconds == pytest.approx(RUN_SECONDS, rel=0.5)
    assert lopri.load.growth < 0
    (queue,) = json.loads(shown.stdout)["queues"]
    assert (queue["queue"], queue["slots"]) == ("lopri", SLOTS)
