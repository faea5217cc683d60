"""The watchdog of the tests: what waits after its time is over, and failures that are told at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import watchdog

HANGS = """
import threading
import pytest

@pytest.fixture
def stubborn():
    yield
    threading.Event().wait()

@pytest.mark.timeout(1)
def test_hangs(stubborn):
    threading.Event().wait()

@pytest.mark.timeout(1)
@pytest.mark.flaky(reruns=1)
def test_hangs_when_tried_again(tries=[]):
    tries.append(1)
    assert len(tries) > 1
    threading.Event().wait()

def test_next():
    pass
"""


def test_what_hangs_after_a_failure_is_ended(tmp_path: Path) -> None:
    """The end of a fixture and a second try have a time limit, each failure is told, and the next test runs."""
    (tmp_path / "test_it.py").write_text(HANGS)
    support = str(Path(watchdog.__file__).parent)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "watchdog",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "-s",
            "test_it.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": support, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert "2 failed, 1 passed, 1 error, 1 rerun" in done.stdout, done.stdout + done.stderr
    told = [
        line.partition(" ")[2]
        for line in done.stdout.splitlines()
        if " in call: " in line or " in teardown: " in line
    ]
    assert told == [
        "failed in call: test_it.py::test_hangs",
        "failed in teardown: test_it.py::test_hangs",
        "rerun in call: test_it.py::test_hangs_when_tried_again",
        "failed in call: test_it.py::test_hangs_when_tried_again",
    ]
