"""The end of the processes and threads of tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import ending
import pytest

LAZY = ["sleep", "600"]
DEAF = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only a moment for an end."""
    monkeypatch.setattr(ending, "END_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_process_that_does_not_end_with_its_block_is_killed() -> None:
    """It does not keep the run from ending."""
    with ending.Process(LAZY) as process:
        pass
    assert process.returncode == -signal.SIGKILL


def test_a_process_whose_block_fails_is_killed() -> None:
    """The error of the block is the one that is shown."""
    with pytest.raises(LookupError), ending.Process(LAZY) as process:
        raise LookupError
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("impatient")
def test_a_process_that_does_not_listen_is_killed() -> None:
    """SIGTERM first, then SIGKILL."""
    process: ending.Process[str] = ending.Process(DEAF, stdout=subprocess.PIPE, text=True)
    with ending.ending(process):
        assert process.stdout is not None
        assert process.stdout.readline() == "deaf\n"
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_goes_on_is_an_error() -> None:
    """It is named."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="endless", daemon=True)
    thread.start()
    with pytest.raises(AssertionError, match="endless"):
        ending.joined(thread)
    stop.set()
    ending.joined(thread)


def test_a_command_that_hangs_says_where() -> None:
    """The failure has the stack of the command, which is ended."""
    code = "import threading\ndef waits_in_vain(): threading.Event().wait()\nwaits_in_vain()"
    with (
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process,
        pytest.raises(AssertionError, match="in waits_in_vain"),
    ):
        ending.outputs(process, 2)
    assert process.poll() is not None
