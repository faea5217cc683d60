"""The counts of a process, read back as the metrics server reads them."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker_app.metrics import reader as reading_module
from broker_app.metrics import storage
from broker_app.metrics.catalogue import (
    DROPPED_SERIES,
    FINISHED,
    PUBLISHED,
    RUN_SECONDS,
    SLOTS,
    WAITED_SECONDS,
    WORKER_UP,
)
from broker_app.metrics.reader import MetricsReader, Series
from broker_app.metrics.recorder import MAX_LABEL_CHARACTERS, OTHER, Recorder, clean
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable


def end(recorder: Recorder) -> None:
    """Do with a recorder's file what the end of its process does: the lock is free."""
    recorder._after_fork()


def test_counters_of_all_processes_are_summed(tmp_path: Path) -> None:
    """Counts of two producers of a host under the same labels are added."""
    one, two = Recorder(tmp_path, "producer"), Recorder(tmp_path, "producer")
    one.add(PUBLISHED, ("lopri", "a"))
    two.add(PUBLISHED, ("lopri", "a"), 2)
    two.add(PUBLISHED, ("lopri", "b"))
    reading = MetricsReader(tmp_path).read()
    assert reading.numbers[Series(PUBLISHED, ("lopri", "a"))] == [3.0]
    assert reading.numbers[Series(PUBLISHED, ("lopri", "b"))] == [1.0]
    assert (reading.read, reading.unreadable) == (2, 0)


def test_a_nodes_numbers_carry_its_name(tmp_path: Path) -> None:
    """A node's full name is the last label of metrics by node, and no label of metrics by host."""
    recorder = Recorder(tmp_path, "node-a", "lopri@host")
    recorder.add(FINISHED, ("lopri", "a", "succeeded"))
    recorder.observe(RUN_SECONDS, ("lopri", "a"), 0.3)
    numbers = MetricsReader(tmp_path).read().numbers
    assert numbers[Series(FINISHED, ("lopri", "a", "succeeded", "lopri@host"))] == [1.0]
    assert Series(RUN_SECONDS, ("lopri", "a"), BOUNDS_SECONDS) in numbers


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (-3.0, 0), (0.001, 0), (0.0011, 1), (1.0, 9), (3600.0, 19), (3600.1, 20)],
)
def test_a_time_is_in_the_bucket_whose_bound_it_does_not_exceed(
    tmp_path: Path, seconds: float, bucket: int
) -> None:
    """Bounds are inclusive, what is longer than all is in +Inf, and a time before its start counts as none."""
    recorder = Recorder(tmp_path, "node", "n@h")
    recorder.observe(WAITED_SECONDS, ("default",), seconds)
    *counts, total = (
        MetricsReader(tmp_path).read().numbers[Series(WAITED_SECONDS, ("default", "n@h"), BOUNDS_SECONDS)]
    )
    assert counts.index(1.0) == bucket
    assert sum(counts) == 1.0
    assert total == max(0.0, seconds)


def test_deferred_counts_are_read_after_a_flush(tmp_path: Path) -> None:
    """A recorder that defers writes when it is flushed; once it defers no more, it writes each count at once."""
    recorder = Recorder(tmp_path, "producer")
    labels = ("lopri", "a")

    def count() -> list[float]:
        recorder.add(PUBLISHED, labels)
        return MetricsReader(tmp_path).read().numbers[Series(PUBLISHED, labels)]

    recorder.begin(PUBLISHED, labels)
    recorder.defer()
    assert count() == [0.0]
    recorder.flush()
    assert MetricsReader(tmp_path).read().numbers[Series(PUBLISHED, labels)] == [1.0]
    recorder.flush(ends_deferring=True)
    assert count() == [2.0]


def test_a_process_that_is_forked_does_not_defer(tmp_path: Path) -> None:
    """After a fork, nobody flushes in the child, so that each of its counts is written at once."""
    recorder = Recorder(tmp_path, "producer")
    recorder.defer()
    recorder._after_fork()
    recorder.add(PUBLISHED, ("lopri", "a"))
    assert MetricsReader(tmp_path).read().numbers[Series(PUBLISHED, ("lopri", "a"))] == [1.0]


def test_threads_lose_no_count(tmp_path: Path) -> None:
    """Every count of many threads at once is there."""
    recorder = Recorder(tmp_path, "node", "n@h")

    def count() -> None:
        for _ in range(5_000):
            recorder.add(PUBLISHED, ("default", "a"))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert MetricsReader(tmp_path).read().numbers[Series(PUBLISHED, ("default", "a"))] == [40_000.0]


def test_a_forked_child_counts_for_itself(tmp_path: Path) -> None:
    """A child of a prefork pool adds to a file of its own; its parent's counts are neither lost nor doubled."""
    recorder = Recorder(tmp_path, "producer")
    recorder.add(PUBLISHED, ("default", "a"))
    pid = os.fork()
    if not pid:
        recorder.add(PUBLISHED, ("default", "a"), 10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    recorder.add(PUBLISHED, ("default", "a"), 100)
    reading = MetricsReader(tmp_path).read()
    assert reading.numbers[Series(PUBLISHED, ("default", "a"))] == [111.0]
    assert reading.read == 2


def test_a_restarted_node_counts_on(tmp_path: Path) -> None:
    """The sums of a node do not go back when it is started again; what it was doing is forgotten."""
    first = Recorder(tmp_path, "node", "n@h")
    first.add(FINISHED, ("default", "a", "succeeded"), 5)
    first.set(SLOTS, ("default",), 8)
    end(first)
    second = Recorder(tmp_path, "node", "n@h")
    second.add(FINISHED, ("default", "a", "succeeded"))
    reading = MetricsReader(tmp_path).read()
    assert reading.numbers[Series(FINISHED, ("default", "a", "succeeded", "n@h"))] == [6.0]
    assert reading.live[Series(SLOTS, ("default", "n@h"))] == [0.0]
    assert reading.read == 1


def test_a_node_that_ended_is_down_and_keeps_its_counts(tmp_path: Path) -> None:
    """Of a node that ended the counters stay, its gauges go, and `up` is 0."""
    recorder = Recorder(tmp_path, "node", "n@h")
    recorder.add(PUBLISHED, ("default", "a"))
    recorder.set(WORKER_UP, ("default",), time.time())
    recorder.set(SLOTS, ("default",), 8)
    end(recorder)
    reading = MetricsReader(tmp_path).read()
    assert reading.live[Series(WORKER_UP, ("default", "n@h"))] == [0.0]
    assert Series(SLOTS, ("default", "n@h")) not in reading.live
    assert reading.numbers[Series(PUBLISHED, ("default", "a"))] == [1.0]


def test_a_node_that_is_gone_for_a_day_is_forgotten(tmp_path: Path) -> None:
    """The file of a process that ended a day ago is removed; that of one that lives never is."""
    gone, there = Recorder(tmp_path, "node-gone", "gone@h"), Recorder(tmp_path, "node-there", "there@h")
    for recorder in (gone, there):
        recorder.add(FINISHED, ("default", "a", "succeeded"))
    end(gone)
    long_ago = time.time() - reading_module.FORGET_SECONDS - 1
    for path in tmp_path.iterdir():
        os.utime(path, (long_ago, long_ago))
    reading = MetricsReader(tmp_path).read()
    assert [path.name for path in tmp_path.iterdir()] == ["node-there.0.metrics"]
    assert Series(FINISHED, ("default", "a", "succeeded", "there@h")) in reading.numbers
    assert (tmp_path / "node-there.0.metrics").stat().st_mtime > long_ago + 1


def test_more_task_names_than_the_bound_are_folded(tmp_path: Path) -> None:
    """The names beyond the bound count as `other`, also after a restart, and no count is lost."""
    first = Recorder(tmp_path, "producer", max_tasks=3)
    for number in range(3):
        first.add(PUBLISHED, ("default", first.task(f"task-{number}")))
    end(first)
    second = Recorder(tmp_path, "producer", max_tasks=3)
    assert second.task("task-7") == OTHER
    assert second.task("task-2") == "task-2"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("shop.tasks.pack", "shop.tasks.pack"),
        ("täsk <b>", "täsk <b>"),
        ("a\nb\0c\x1b", "a\ufffdb\ufffdc\ufffd"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("x" * 1_000, "x" * MAX_LABEL_CHARACTERS),
        (["no", "text"], "['no', 'text']"),
    ],
)
def test_hostile_names_become_harmless_labels(tmp_path: Path, name: str, label: str) -> None:
    """Whatever a task is called, its label is bounded text without control characters, and it is counted."""
    recorder = Recorder(tmp_path, "producer")
    assert clean(name) == label
    recorder.add(PUBLISHED, ("default", recorder.task(name)))
    assert MetricsReader(tmp_path).read().numbers[Series(PUBLISHED, ("default", label))] == [1.0]


def test_a_damaged_file_is_counted_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The files that can be read are read; one that cannot is a number, and one line in the log."""
    Recorder(tmp_path, "producer").add(PUBLISHED, ("default", "a"))
    (tmp_path / "node.0.metrics").write_bytes(b"something else, and long enough")
    (tmp_path / "notes.txt").write_text("no metrics")
    reader = MetricsReader(tmp_path)
    with caplog.at_level(logging.WARNING):
        readings = [reader.read() for _ in range(3)]
    assert {(reading.read, reading.unreadable) for reading in readings} == {(1, 1)}
    assert len(caplog.records) == 1
    assert "node.0.metrics" in caplog.text


def test_a_key_that_is_no_json_is_a_damaged_file(tmp_path: Path) -> None:
    """A file whose keys are not ours is skipped like any other damaged one."""
    storage.MetricFile.take(tmp_path, "node").cells(b"\xff\xfe", 1)
    assert MetricsReader(tmp_path).read().unreadable == 1


def test_metrics_of_another_version_are_passed_over(tmp_path: Path) -> None:
    """A file of a newer version, with metrics and buckets that we do not know, does not spoil those that we do."""
    file = storage.MetricFile.take(tmp_path, "producer")
    for key in (
        b'["broker_app_new_total",["a"]]',
        b'["broker_app_tasks_published_total",["too","many","labels"]]',
    ):
        file.cells(key, 1)
    view, index = file.cells(b'["broker_app_publish_confirm_seconds",["default"],[1.0,2.0]]', 4)
    view[index] = 5.0
    reading = MetricsReader(tmp_path).read()
    assert [(series.bounds, values) for series, values in reading.numbers.items()] == [
        ((1.0, 2.0), [5.0, 0.0, 0.0, 0.0])
    ]


def test_a_folder_that_cannot_be_made_costs_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a writable folder, counting goes on without a file and warns once."""
    (tmp_path / "metrics").write_text("a file in the folder's place")
    recorder = Recorder(tmp_path / "metrics" / "app", "producer")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recorder.add(PUBLISHED, ("default", recorder.task("a")))
            recorder.observe(WAITED_SECONDS, ("default",), 1.0)
    assert len(caplog.records) == 1
    assert "metrics of this process are incomplete" in caplog.text
    reading = MetricsReader(tmp_path / "metrics" / "app").read()
    assert (reading.read, bool(reading.problem)) == (0, True)


def test_series_that_find_no_room_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file is full, what is in it goes on, and how many series are missing is a number."""
    monkeypatch.setattr(storage, "MAX_CHUNKS", 1)
    recorder = Recorder(tmp_path, "producer", max_tasks=10_000)
    for number in range(2_000):
        recorder.add(PUBLISHED, ("default", recorder.task(f"task-{number}")))
    reading = MetricsReader(tmp_path).read()
    assert len(reading.numbers) + reading.live[Series(DROPPED_SERIES, ())][0] == 2_000


def test_a_reader_sees_what_came_since(tmp_path: Path) -> None:
    """A reader that has read a file before sees new numbers, new series, and a replaced file."""
    reader, recorder = MetricsReader(tmp_path), Recorder(tmp_path, "producer")
    recorder.add(PUBLISHED, ("default", "a"))
    reader.read()
    recorder.add(PUBLISHED, ("default", "a"))
    recorder.add(PUBLISHED, ("default", "b"))
    assert sorted(values for values in reader.read().numbers.values()) == [[1.0], [2.0]]
    end(recorder)
    (tmp_path / "producer.0.metrics").unlink()
    Recorder(tmp_path, "producer").add(PUBLISHED, ("default", "c"))
    assert list(reader.read().numbers) == [Series(PUBLISHED, ("default", "c"))]


def test_a_file_that_is_cut_short_is_restored_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose file was truncated or removed has all its counts in it again, and says so once each time."""
    monkeypatch.setattr("broker_app.metrics.recorder._CHECK_SECONDS", 0.0)
    recorder = Recorder(tmp_path, "producer")
    recorder.add(PUBLISHED, ("default", "task"))
    damages: list[Callable[[Path], None]] = [lambda path: os.truncate(path, 0), Path.unlink]
    for number, damage in enumerate(damages, start=1):
        damage(tmp_path / "producer.0.metrics")
        recorder.add(PUBLISHED, ("default", "task"))
        recorder.add(PUBLISHED, ("default", "task"))
        (series,) = (one for one in MetricsReader(tmp_path).read().numbers.items() if one[0].metric is PUBLISHED)
        assert series[1] == [1.0 + 2 * number]
        assert caplog.text.count("restored it from memory") == number
