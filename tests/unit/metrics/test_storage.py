"""The file in which a process counts: what is written is there for others, whatever becomes of the process."""

from __future__ import annotations

import os
import signal
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from broker_app.metrics import file_format, storage
from broker_app.metrics.file_format import CorruptFileError
from broker_app.metrics.storage import CHUNK_BYTES, FullError, MetricFile

if TYPE_CHECKING:
    from pathlib import Path


def content(path: Path) -> dict[bytes, tuple[float, ...]]:
    """Return the content of a file."""
    data = path.read_bytes()
    return {entry.key: file_format.numbers(data, entry) for entry in file_format.parse(data)}


def test_what_a_killed_process_has_counted_is_kept_and_counted_on(tmp_path: Path) -> None:
    """After SIGKILL every number is in the file, and the next process of the kind goes on in the same file."""
    for _ in range(2):
        pid = os.fork()
        if not pid:
            view, index = MetricFile.take(tmp_path, "node").cells(b"key", 2)
            view[index] += 1
            view[index + 1] += 0.5
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["node.0.metrics"]
    assert content(tmp_path / "node.0.metrics") == {b"key": (2.0, 1.0)}


def test_two_processes_at_once_have_two_files(tmp_path: Path) -> None:
    """While one process has the first file, the next takes the second."""
    first, second = MetricFile.take(tmp_path, "node"), MetricFile.take(tmp_path, "node")
    assert (first.path.name, second.path.name) == ("node.0.metrics", "node.1.metrics")


def test_a_file_grows_by_chunks_and_keeps_what_it_has(tmp_path: Path) -> None:
    """More series than fit into a chunk are all kept, and earlier ones stay at their place."""
    file = MetricFile.take(tmp_path, "node")
    view, index = file.cells(b"first", 1)
    for number in range(2_000):
        cells, place = file.cells(f"series {number}".encode(), 3)
        cells[place + 2] = number
    view[index] = 7.0
    found = content(file.path)
    assert len(found) == 2_001
    assert found[b"first"] == (7.0,)
    assert all(found[f"series {number}".encode()] == (0.0, 0.0, float(number)) for number in range(2_000))
    assert file.path.stat().st_size % CHUNK_BYTES == 0


def test_a_taken_file_knows_its_series_again(tmp_path: Path) -> None:
    """The next process finds each series where it was, in every chunk, and adds new ones behind."""
    first = MetricFile.take(tmp_path, "node")
    for number in range(2_000):
        first.cells(f"series {number}".encode(), 3)
    first.forget()  # as the process's end does
    second = MetricFile.take(tmp_path, "node")
    size = second.path.stat().st_size
    for number in range(2_000):
        second.cells(f"series {number}".encode(), 3)
    second.cells(b"new", 1)
    assert second.path.stat().st_size == size
    assert len(content(second.path)) == 2_001


def test_a_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would grow beyond its bound refuses, and its content stays valid."""
    monkeypatch.setattr(storage, "MAX_CHUNKS", 1)
    file = MetricFile.take(tmp_path, "node")
    keys = (f"series {number}".encode() for number in range(5_000))
    with pytest.raises(FullError, match="at most"):
        list(map(file.cells, keys, repeat(3)))
    assert len(content(file.path)) > 1_000


@pytest.mark.parametrize("size", [0, 8, 5_000, CHUNK_BYTES])
def test_a_file_that_is_cut_short_ends_nobody(tmp_path: Path, size: int) -> None:
    """A process whose file was truncated rewrites it, with all counts."""
    pid = os.fork()
    if not pid:
        file = MetricFile.take(tmp_path, "node")
        cells = [file.cells(f"series {number}".encode(), 3) for number in range(2_000)]
        os.truncate(file.path, size)
        for view, index in cells:
            view[index] += 1
        file.cells(b"new", 1)
        os._exit(0 if file.restore() and not file.restore() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    found = content(tmp_path / "node.0.metrics")
    assert found.pop(b"new") == (0.0,)
    assert found == {f"series {number}".encode(): (1.0, 0.0, 0.0) for number in range(2_000)}


def test_a_file_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    """A process whose file was removed goes on in a new one, and leaves alone what others have counted."""
    file = MetricFile.take(tmp_path, "node")
    view, index = file.cells(b"key", 1)
    file.path.unlink()
    view[index] += 5
    other = MetricFile.take(tmp_path, "node")
    assert file.restore()
    view[index] += 1
    assert file.path != other.path
    assert content(file.path) == {b"key": (6.0,)}
    assert storage.lock(file.path) is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0" * 16, b"\0" * CHUNK_BYTES],
    ids=["empty", "a moment old", "killed before anything was written"],
)
def test_a_file_that_was_only_made_is_no_fault(tmp_path: Path, damage: bytes) -> None:
    """A file whose process was killed while it made it is taken and used."""
    (tmp_path / "node.0.metrics").write_bytes(damage)
    file = MetricFile.take(tmp_path, "node")
    file.cells(b"key", 1)
    assert file.path.name == "node.0.metrics"
    assert content(file.path) == {b"key": (0.0,)}


@pytest.mark.parametrize(
    "damage",
    [
        b"short",
        b"something else that is long enough",
        file_format.HEADER.pack(file_format.MAGIC, 1 << 40) + b"\0" * 100,
        file_format.HEADER.pack(file_format.MAGIC, 32) + file_format.ENTRY.pack(1_000_000, 1) + b"\0" * 8,
        file_format.HEADER.pack(file_format.MAGIC, 24) + file_format.ENTRY.pack(0, 1_000_000),
    ],
    ids=["too short", "no file of ours", "length", "key", "numbers"],
)
def test_a_damaged_file_is_told_and_begun_anew(tmp_path: Path, damage: bytes) -> None:
    """Readers refuse a damaged file, and a process that would have gone on in it takes a new one."""
    path = tmp_path / "node.0.metrics"
    path.write_bytes(damage)
    with pytest.raises(CorruptFileError):
        list(file_format.parse(damage))
    file = MetricFile.take(tmp_path, "node")
    file.cells(b"key", 1)
    assert content(file.path) == {b"key": (0.0,)}
    assert not path.exists() or path == file.path


def test_files_are_their_owners_only(tmp_path: Path) -> None:
    """Nobody else on the host can read or write what is counted."""
    file = MetricFile.take(tmp_path / "metrics" / "app", "node")
    assert file.path.stat().st_mode & 0o077 == 0
    assert file.path.parent.stat().st_mode & 0o077 == 0


def test_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path) -> None:
    """When a child that was forked ends, its parent's file is still locked."""
    file = MetricFile.take(tmp_path, "node")
    pid = os.fork()
    if not pid:
        file.forget()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    descriptor = os.open(file.path, os.O_RDONLY)
    assert storage.is_locked(descriptor)
    os.close(descriptor)
