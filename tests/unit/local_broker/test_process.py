"""Recognising our own processes with certainty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from waiting import wait_until

from broker_app.local_broker.process import ProcessHandle, kill_all, marked

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "UNIT_TEST_MARK"


@contextmanager
def sleeping(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with a mark, and end it."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, env=os.environ | {NAME: mark}) as child:
        wait_until(lambda: marked(NAME, mark), 30, "the child's environment")
        try:
            yield child
        finally:
            child.kill()


def test_process_of_this_test() -> None:
    """A running process is the same one each time it is looked at, and runs."""
    process = ProcessHandle.of(os.getpid())
    assert process is not None
    assert process == ProcessHandle.of(os.getpid())
    assert process.is_running


def test_ended_process() -> None:
    """A process that has ended does not count, even if its parent has not reaped it yet."""
    with sleeping("ended") as child:
        process = ProcessHandle.of(child.pid)
        child.kill()
        wait_until(lambda: ProcessHandle.of(child.pid) is None, 30, "the child to end")
        assert process is not None
        assert not process.is_running
        assert process.name in {"", "python", "python3"}


def test_reused_pid_is_spared() -> None:
    """A signal for a process that has ended never reaches the one that got its pid."""
    with sleeping("reused") as child:
        now = ProcessHandle.of(child.pid)
        assert now is not None
        replace(now, started_ticks=now.started_ticks - 1).send(signal.SIGKILL)
        now.send(signal.SIGCONT)  # arrives after the first one would have
        assert now.is_running


def test_signal_to_nobody() -> None:
    """A signal for a process that has ended is no error."""
    ProcessHandle(pid=2**22, started_ticks=1).send(signal.SIGKILL)  # above the kernel's largest pid


def test_a_process_that_executes_a_program_is_found_at_every_moment() -> None:
    """Its environment is empty for a moment; a node that is looked at then has not ended."""
    again = "import os, sys; left = int(sys.argv[2]); left and os.execv(sys.executable, [*command, str(left - 1)])"
    program = f"import sys; command = [sys.executable, '-S', '-c', sys.argv[1], sys.argv[1]]; {again}"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, program, "40"], env=os.environ | {NAME: "again"}
    ) as child:
        wait_until(lambda: marked(NAME, "again"), 30, "the child's environment")
        missing = 0
        while child.poll() is None:
            missing += not marked(NAME, "again") and child.poll() is None
        assert missing == 0
    assert child.returncode == 0


def test_marked_finds_descendants() -> None:
    """A mark is found in a process that left the session of its parent, and not under another value."""
    script = f"import subprocess; subprocess.run(['{sys.executable}', '-c', 'input()'], start_new_session=True)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=os.environ | {NAME: "deep"}, stdin=subprocess.PIPE) as child:
        wait_until(lambda: len(marked(NAME, "deep")) == 2, 30, "child and grandchild")
        assert marked(NAME, "dee") == []
        assert kill_all(lambda: marked(NAME, "deep"), 30) == []
        assert child.wait(60) == -signal.SIGKILL
