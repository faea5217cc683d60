"""A fleet on disk: pid files, marks, logs and the lock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp
from broker_app.errors import FleetBusy, FleetError
from broker_app.fleet.state import FleetState

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def state(tmp_path: Path) -> FleetState:
    """Return the state of an app's fleets in a folder that does not exist."""
    return FleetState(tmp_path / "state", "shop")


def test_each_app_has_its_own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two apps with one state folder keep their pid files apart, whatever they are called."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path))
    folders = {FleetState.of(BrokerApp(name, set_as_current=False)).run for name in ("shop", "../blog", None)}
    assert folders == {tmp_path / "run" / name for name in ("shop", "___blog", "app")}


def test_looking_makes_nothing(state: FleetState) -> None:
    """A state folder that is not there has no nodes, and is still not there afterwards."""
    assert not state.exists()
    assert (state.recorded(), state.workers(), state.pid("lopri")) == ((), {}, None)
    assert state.log_tail("lopri", 0, 5) == ()
    assert not state.base.exists()


def test_the_lock_makes_folders_for_their_owner_only(state: FleetState) -> None:
    """All folders that are made are 0700; what is on the way to them already stays as it is."""
    with state.lock():
        made = [state.base, state.run, state.log, state.run.parent, state.log.parent]
        assert {folder.stat().st_mode & 0o777 for folder in made} == {0o700}


def test_the_lock_has_one_holder_and_is_free_again_afterwards(state: FleetState) -> None:
    """A second holder is refused with the first one's pid; the end of the block frees it."""
    with (
        state.lock(),
        pytest.raises(FleetError, match=rf"another fleet command \(pid {os.getpid()}\)"),
        state.lock(),
    ):
        pass
    with state.lock():
        pass


@pytest.mark.parametrize("place", ["", "state", "state/run", "state/log/shop"])
def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path, place: str) -> None:
    """If the state folder is not writable, the error names it and the settings that move it."""
    file = tmp_path / "base" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with (
        pytest.raises(FleetError, match=r"expected a folder that this user may write.*BROKER_APP_STATE_DIR"),
        FleetState(tmp_path / "base" / "state", "shop").lock(),
    ):
        pass


@pytest.mark.parametrize(("text", "pid"), [("12\n", 12), ("", None), ("what\n", None)])
def test_a_pid_file_that_is_not_a_number_counts_as_none(state: FleetState, text: str, pid: int | None) -> None:
    """A pid file that a worker is just writing, or that is broken, has no pid."""
    state.run.mkdir(parents=True)
    state.pid_file("lopri").write_text(text)
    assert state.pid("lopri") == pid
    assert state.recorded() == ("lopri",)


def test_a_mark_of_stopping_is_for_one_process(state: FleetState) -> None:
    """A stopped node is remembered by pid, so that the next worker of the name is not mistaken for it."""
    state.run.mkdir(parents=True)
    state.mark_stopping("lopri", 12)
    assert state.is_stopping("lopri", 12)
    assert not state.is_stopping("lopri", 1)
    state.forget("lopri")
    assert not state.is_stopping("lopri", 12)


def test_the_log_tail_is_of_this_start(state: FleetState) -> None:
    """Only lines that were written since are shown, at most so many, without empty ones."""
    state.log.mkdir(parents=True)
    state.log_file("lopri").write_text("old\n")
    before = state.log_bytes("lopri")
    with state.log_file("lopri").open("a") as file:
        file.write("one\n\ntwo\nthree\n")
    assert state.log_tail("lopri", before, 2) == ("two", "three")
    assert state.log_tail("lopri", before, 9) == ("one", "two", "three")


def test_a_supervisor_at_work_is_waited_for(state: FleetState) -> None:
    """An operator's command begins when the supervisor has started its node; a supervisor itself does not wait."""
    began, is_over = threading.Event(), threading.Event()

    def supervise() -> None:
        with state.lock(is_supervisor=True):
            began.set()
            is_over.wait(90)

    thread = threading.Thread(target=supervise)
    thread.start()
    assert began.wait(90)
    with pytest.raises(FleetBusy), state.lock(is_supervisor=True):
        pass
    threading.Timer(0.3, is_over.set).start()
    with state.lock():
        assert is_over.is_set()
    thread.join()


def test_a_queue_has_one_supervisor(state: FleetState) -> None:
    """A second one is refused with the first one's pid; other queues are free."""
    with (
        state.supervision("lopri"),
        state.supervision("default"),
        pytest.raises(FleetError, match=rf"no other supervisor of this fleet, pid {os.getpid()} is one; end that"),
        state.supervision("lopri"),
    ):
        pass


def test_a_full_disk_is_refused_and_does_not_keep_nodes_from_ending(tmp_path: Path) -> None:
    """A file that cannot grow is one line before anything starts; the lock and the marks do without."""
    code = """
import pathlib, resource, sys
from broker_app.errors import FleetError
from broker_app.fleet.space import check_files
from broker_app.fleet.state import FleetState
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
state = FleetState(pathlib.Path(sys.argv[1]), "shop")
with state.lock():
    state.mark_stopping("lopri", 1)
    try:
        check_files(state, ['lopri'])
    except FleetError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert "expected a folder that this user may write, got: File too large" in line
