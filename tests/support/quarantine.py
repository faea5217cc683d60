"""Quarantine: the only tests that are run again when they fail. A run's first lines list them.

An entry is a debt: it says why the test fails now and then, and goes with the cause. The aim is an empty list.
"""

from __future__ import annotations

QUARANTINED: dict[str, str] = {
    "tests/integration/results/test_store_away.py::test_what_ended_while_the_store_was_away_is_told_later": (
        "Celery's Redis client looks for results, then subscribes anew: it is not told of one stored in between"
    ),
    "tests/integration/worker/test_deliveries.py::test_a_task_that_outlives_its_connection_runs_once": (
        "failed once: the task after a cut connection did not run, for a reason that was not found"
    ),
    "tests/chaos/test_cluster.py::test_the_leader_of_the_queue_is_killed": (
        "failed once on a busy machine, for a reason that was not found; deadlines are longer since"
    ),
    "tests/integration/topology/test_prune.py::test_producers_who_publish_while_lanes_are_removed": (
        "its prunes wait for a second only, which producers on a busy machine outlast"
    ),
}
"""A test's id without its parameters, such as ``tests/chaos/test_cluster.py::test_x`` -> why it is unreliable."""

RERUNS = 2
"""Number of reruns of such a test."""


def reason_for(node_id: str) -> str | None:
    """Return why a test is in quarantine; None if it is not."""
    return QUARANTINED.get(node_id.partition("[")[0])


def headlines() -> list[str]:
    """Return what a run says of the quarantine at its start."""
    listed = [f"  {node_id}: {reason}" for node_id, reason in sorted(QUARANTINED.items())]
    return [f"quarantine: {len(listed)} tests are run again when they fail", *listed]
