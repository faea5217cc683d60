"""Private folders and files: their modes, and refusals."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from broker_app.app import BrokerApp
from broker_app.errors import FleetError
from broker_app.fleet.state import FleetState
from broker_app.metrics.storage import MetricFile
from broker_app.settings.private_files import make_private_folder, open_private, write_private
from broker_app.worker.heartbeat_file import Heartbeat, HeartbeatFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _loose_umask() -> Iterator[None]:
    """Let what is made without a mode be everybody's."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """Return a file's or folder's permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_folder_has_private_parents(tmp_path: Path) -> None:
    """The folder and all parents that were missing are 0700, whatever the umask; what was there keeps its mode."""
    (tmp_path / "there").mkdir(mode=0o755)
    folder = tmp_path / "there" / "state" / "run" / "shop"
    make_private_folder(folder)
    assert {mode(one) for one in (folder, folder.parent, folder.parent.parent)} == {0o700}
    assert mode(tmp_path / "there") == 0o755
    make_private_folder(folder)


@pytest.mark.parametrize("writable", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, writable: int) -> None:
    """An existing folder with write access for the group or for all is refused with its mode and the cure."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(writable)
    cure = "below it" if writable & stat.S_ISVTX else f"chmod go-w {tmp_path}/state"
    with pytest.raises(PermissionError, match=rf"mode {writable:04o}; [^;]*{cure}"):
        make_private_folder(tmp_path / "state")
    make_private_folder(tmp_path / "state", is_ours=False)


def test_private_files_are_private_and_no_links(tmp_path: Path) -> None:
    """Files are made with mode 0600; a symbolic link in the place of one is refused and its target untouched."""
    os.close(open_private(tmp_path / "new", os.O_WRONLY | os.O_CREAT))
    write_private(tmp_path / "whole", "text")
    assert {mode(tmp_path / name) for name in ("new", "whole")} == {0o600}
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="is a symbolic link; remove it"):
        open_private(tmp_path / "link", os.O_WRONLY | os.O_CREAT)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("place", ["", "run", "run/shop", "log", "log/shop"])
def test_a_fleet_refuses_a_state_folder_of_others(tmp_path: Path, place: str) -> None:
    """Every folder of a fleet's state must be closed to others, and the refusal is one line."""
    state = FleetState(tmp_path / "state", "shop")
    with state.lock():
        pass
    (state.base / place).chmod(0o777)
    with pytest.raises(FleetError, match="only its owner may write to, got mode 0777") as caught, state.lock():
        pass
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(";") == 1  # one cure


@pytest.mark.parametrize("name", ["run/shop/lopri.pid", "log/shop/lopri.log", "log/shop/lopri-3.log"])
def test_a_linked_log_or_pid_file_is_refused(tmp_path: Path, name: str) -> None:
    """A fleet does not start a node whose worker would write through a link."""
    state = FleetState(tmp_path / "state", "shop")
    with state.lock():
        state.check_files("lopri")
        (state.base / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FleetError, match=r"lopri: expected a file, got: .* is a symbolic link"):
            state.check_files("lopri")


def test_counts_and_results_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters and results in SQLite, and all folders made for them, are readable by their owner alone."""
    state = tmp_path / "local" / "state"
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(state))
    app = BrokerApp("shop", set_as_current=False)
    app.backend.store_result("id", 4, "SUCCESS")
    MetricFile.take(state / "metrics" / "shop", "node").cells(b"key", 1)
    found = {path.relative_to(tmp_path).as_posix(): mode(path) for path in tmp_path.rglob("*")}
    assert "local/state/results.sqlite3" in found
    assert {bits for name, bits in found.items() if (tmp_path / name).is_dir()} == {0o700}
    assert {bits for name, bits in found.items() if not (tmp_path / name).is_dir()} == {0o600}


def test_signs_of_life_beside_a_pid_file_in_tmp(tmp_path: Path) -> None:
    """A worker whose pid file is in /tmp writes its heartbeat file next to it, but follows no symbolic link."""
    tmp_path.chmod(0o1777)
    HeartbeatFile(tmp_path / "worker.alive").beat(None, ["lopri"])
    sign = Heartbeat.read(tmp_path / "worker.alive")
    assert sign is not None
    assert mode(tmp_path / "worker.alive") == 0o600
    (tmp_path / "other.alive").symlink_to(tmp_path / "target")
    HeartbeatFile(tmp_path / "other.alive").beat(None, ["lopri"])
    assert not (tmp_path / "target").exists()
