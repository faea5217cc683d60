"""Finding workers among the processes of a host, and ending them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from waiting import wait_until

from broker_app.fleet import processes
from broker_app.fleet.processes import find_workers, kill, terminate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT = "import sys; sys.stdin.read()"
WAIT_AND_FORK = "import os, sys; os.fork(); sys.stdin.read()"


@contextmanager
def worker(pid_file: str, code: str = WAIT) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with a worker's command line, in a session of its own as `celery multi` does."""
    command = [sys.executable, "-c", code, "-A", "shop", f"--pidfile={pid_file}", "-n", "lopri@h"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: str(pid_file) in _command_line(process.pid), 30, "the process's command line")
        try:
            yield process
        finally:
            kill(process.pid)


def _command_line(pid: int) -> str:
    return subprocess.run(
        [shutil.which("ps") or "ps", "-ww", "-p", str(pid), "-o", "args="],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.fixture(params=["proc", "ps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look once at /proc and once, as on systems without it, at what `ps` prints."""
    if request.param == "ps":
        monkeypatch.setattr(processes, "_PROC", tmp_path / "no-proc")


@pytest.mark.usefixtures("way")
def test_a_worker_is_found_by_its_pid_file_alone(tmp_path: Path) -> None:
    """Only a process with a pid file of this very folder on its command line is one of its workers."""
    with worker(f"{tmp_path}/lopri+2.pid") as ours, worker(f"{tmp_path}/other/lopri.pid"):
        found = find_workers(tmp_path)

    assert [(stem, [process.pid for process in found[stem]]) for stem in found] == [("lopri+2", [ours.pid])]
    assert found["lopri+2"][0].node_name == "lopri@h"


@pytest.mark.usefixtures("way")
def test_a_pools_processes_are_not_workers(tmp_path: Path) -> None:
    """A child with its parent's command line is left out while the parent lives."""
    with worker(f"{tmp_path}/lopri.pid", WAIT_AND_FORK) as parent:
        wait_until(lambda: _children(parent.pid), 30, "the child")
        (found,) = find_workers(tmp_path).values()
    assert [process.pid for process in found] == [parent.pid]


def test_a_path_with_blanks_is_no_obstacle(tmp_path: Path) -> None:
    """The folder's name may hold what separates words."""
    with worker(f"{tmp_path}/my state/lopri.pid"):
        assert set(find_workers(tmp_path / "my state")) == {"lopri"}


def test_kill_ends_the_pools_processes_too(tmp_path: Path) -> None:
    """After `kill` neither the worker nor its children run."""
    with worker(f"{tmp_path}/lopri.pid", WAIT_AND_FORK) as parent:
        (child,) = wait_until(lambda: _children(parent.pid), 30, "the child")
        kill(parent.pid)
        parent.wait()
        wait_until(lambda: _has_ended(child), 30, "the end of the child")


def test_signals_to_who_is_gone_are_no_error() -> None:
    """A worker may end by itself between the look and the signal."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    terminate(process.pid)
    kill(process.pid)


def _children(pid: int) -> list[int]:
    return [process.pid for process in processes.all_processes() if process.parent == pid]


def _has_ended(pid: int) -> bool:
    """Return whether a process is gone, or only waits to be reaped by its parent."""
    return not any(process.pid == pid and process.command for process in processes.all_processes())
