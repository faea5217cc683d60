"""From nothing to the first finished task: ``make demo`` in a fresh clone, step by step."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.figures import shown
from benchmarks.report import Report
from benchmarks.worker import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.bench import Bench

FILES = {"uv": ".cache/uv/bin/uv", "dependencies": ".venv/ready"}
"""The file that a step of the Makefile makes when it is done."""

LINES = {"broker": "] broker:", "topology": "] topology:", "web site": "] site:", "fleets": "] fleet:"}
"""The demo's lines on stderr at the end of a step; the last such line counts."""

FIRST_TASK = "first lopri task"
_LOPRI_LOGS = "**/*lopri*.log"
_SUCCEEDED = re.compile(rb"Task \S+ succeeded in ")
_PAUSE_SECONDS = 0.02
_BOUND_SECONDS = 900.0
_END_SECONDS = 60.0


def run(bench: Bench) -> Report:
    """Clone the last commit, run its demo, and take the time of each step."""
    clone = bench.folder / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, timeout=_BOUND_SECONDS)  # noqa: S607
    moments = _moments(bench, clone)
    steps, before = [], 0.0
    for name, moment in moments.items():
        steps.append((name, shown(moment - before), shown(moment)))
        before = moment
    return Report(
        title="`make demo` in a fresh clone, until the first task on `lopri` has finished",
        columns=("step", "seconds", "in all"),
        rows=tuple(steps),
        notes=(
            "Once, with empty caches of uv; uv and the dependencies come from the network. The broker is the one "
            "that the demo finds. Steps up to the dependencies are make's."
        ),
        samples={name: (moment,) for name, moment in moments.items()},
    )


def _moments(bench: Bench, clone: Path) -> dict[str, float]:
    """Return when each step was done, in seconds after the start, in their order."""
    moments: dict[str, float] = {}
    log = bench.folder / "demo.log"
    with _demo(clone, log) as process:
        started = time.monotonic()
        listener = threading.Thread(target=_listen, args=(process, started, moments, bench), daemon=True)
        listener.start()
        while FIRST_TASK not in moments:
            elapsed = time.monotonic() - started
            for name, file in FILES.items():
                if name not in moments and (clone / file).exists():
                    moments[name] = elapsed
            if _has_finished_task(clone / ".state"):
                moments[FIRST_TASK] = elapsed
            assert elapsed < _BOUND_SECONDS, f"no task of the demo has finished after {elapsed:.0f} s"
            assert FIRST_TASK in moments or process.poll() is None, "the demo ended before a task of lopri had"
            time.sleep(_PAUSE_SECONDS)
        process.wait(_BOUND_SECONDS)
        listener.join(_END_SECONDS)
    assert process.returncode == 0, f"the demo failed with status {process.returncode}"
    return dict(sorted(moments.items(), key=lambda item: item[1]))


def _listen(process: subprocess.Popen[str], started: float, moments: dict[str, float], bench: Bench) -> None:
    """Note the moments of the lines that tell of a step, and pass all of them on."""
    for line in process.stderr or ():
        bench.say(line.rstrip())
        for name, mark in LINES.items():
            if mark in line:
                moments[name] = time.monotonic() - started


def _has_finished_task(state: Path) -> bool:
    return any(_SUCCEEDED.search(log.read_bytes()) for log in state.glob(_LOPRI_LOGS))


@contextmanager
def _demo(clone: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo as a newcomer would; interrupted if it still runs at the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "demo"],  # noqa: S607 - whatever make the newcomer has
            cwd=clone,
            env=_newcomers_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # the session is the demo's own
            process.wait(_END_SECONDS)


def _newcomers_environment() -> dict[str, str]:
    """Return our environment without what would lead the demo out of its clone."""
    foreign = ("BROKER_APP_", "UV_", "VIRTUAL_ENV", "CELERY_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
