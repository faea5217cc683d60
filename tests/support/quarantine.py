"""Quarantine: the only tests that are run again when they fail. A run's first lines list them.

An entry is a debt: it says why the test fails now and then, and goes with the cause. The aim is an empty list.
"""

from __future__ import annotations

from pathlib import PurePosixPath

_PROCESSES = (
    "real processes against the clock: some needed a second try on a busy machine. The causes that were found are "
    "mended; clean runs have yet to prove it"
)

QUARANTINED: dict[str, str] = {
    "tests/acceptance": _PROCESSES,
    "tests/chaos": _PROCESSES,
    "tests/ecosystem": _PROCESSES,
    "tests/integration": _PROCESSES,
    "tests/chaos/test_cluster.py::test_the_leader_of_the_queue_is_killed": (
        "failed once on a busy machine, for a reason that was not found; deadlines are longer since"
    ),
    "tests/integration/topology/test_prune.py::test_producers_who_publish_while_lanes_are_removed": (
        "a run on a busy machine outlasted the waits of its prunes, which are longer since"
    ),
}
"""Why a test, or a folder of tests, is unreliable. A test is named without its parameters: ``file.py::test_x``."""

RERUNS = 2
"""Number of reruns of such a test."""


def reason_for(node_id: str) -> str | None:
    """Return why a test is in quarantine; None if it is not."""
    test = node_id.partition("[")[0]
    folders = (str(folder) for folder in PurePosixPath(test.partition("::")[0]).parents)
    return next((QUARANTINED[name] for name in (test, *folders) if name in QUARANTINED), None)


def headlines() -> list[str]:
    """Return what a run says of the quarantine at its start."""
    listed = [f"  {node_id}: {reason}" for node_id, reason in sorted(QUARANTINED.items())]
    return [f"quarantine: {len(listed)} tests or folders are run again when they fail", *listed]
