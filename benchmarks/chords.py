"""Chords whose results are stored in SQL: the time from the call until the body's result is there."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING
from unittest.mock import patch

from celery import chord

from benchmarks.apps import make_careful, make_ours
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.probe import BODY, MEMBER
from benchmarks.report import Goal, Report
from benchmarks.result_stores import postgresql_url
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_native, declare_ours, declare_plain
from benchmarks.worker import running_commands, worker_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from benchmarks.bench import Bench

OPTIONS = ("-P", "threads", "-c", "8", "--without-gossip", "--without-mingle")
OURS, PLAIN = "ours", "careful"
GOALS_MS = {10: 60.0, 1_000: 2_000.0}
_BOUND_SECONDS = 300.0


def run(bench: Bench) -> Report:
    """Run chords of 10 and of 1,000 members in turn, on a worker of each contender that is idle otherwise."""
    repeats, rounds = bench.pick(({10: 15, 1_000: 1}, 3), ({10: 5, 1_000: 1}, 1))
    cases, measures = [], {}
    with ExitStack() as stack:
        stores = {"SQLite": "", "PostgreSQL": stack.enter_context(postgresql_url())}
        for store in (store for store, url in stores.items() if url is not None):
            clients = {
                name: stack.enter_context(_client(bench, name, stores[store] or "")) for name in (OURS, PLAIN)
            }
            for size, number in repeats.items():
                cases.append((store, size))
                for name, client in clients.items():
                    measures[f"{store} {size} {name}"] = partial(_median_ms, client, size, number)
        for measure in measures.values():
            measure()  # connections and tables
        times = alternate(measures, rounds, bench.say)
    pairs = {case: [times[f"{case[0]} {case[1]} {name}"] for name in (OURS, PLAIN)] for case in cases}
    return Report(
        title=f"chords, one worker with {' '.join(OPTIONS[:4])}, {rounds} rounds",
        columns=("members, store", "broker-app, ms", "plain Celery, ms", "Celery / broker-app"),
        rows=tuple(
            (
                f"{size:,}, {store}",
                *(shown_spread(Spread.of(one)) for one in pair),
                shown_spread(ratio(*reversed(pair)), "x"),
            )
            for (store, size), pair in pairs.items()
        ),
        goals=tuple(
            Goal(f"{size:,} on {store}", Spread.of(pair[0]), GOALS_MS[size], is_ceiling=True, unit=" ms")
            for (store, size), pair in pairs.items()
        ),
        notes=(
            "The median of each round, from the call of the chord until `get()` returns the body's result. The "
            "tasks do nothing. Plain Celery: late acks, prefetch 1, its chord_unlock."
        ),
        samples=times,
    )


@contextmanager
def _client(bench: Bench, name: str, store: str) -> Iterator[Celery]:
    """Start a worker with a store, SQLite unless another is named, and yield a client of it."""
    with bench.virtual_host() as url, bench.record() as record:
        (declare_ours if name == OURS else declare_plain)(url)
        if name == PLAIN:
            declare_native(url)
        store = store or f"db+sqlite:///{record.path.with_name('results.sqlite3')}"
        variable = "BROKER_APP_RESULT_URL" if name == OURS else "CELERY_RESULT_BACKEND"
        environment = worker_environment(url, record.path) | {variable: store}
        command = ("celery", "-A", f"benchmarks.apps:{name}", "worker", "-l", "WARNING", "-Q", QUEUE, *OPTIONS)
        client = _make(name, url, variable, store)
        with running_commands([command], environment, record, 1):
            yield client


def _make(name: str, url: str, variable: str, store: str) -> Celery:
    """Return a client, whose store is read from the environment, as its worker's is."""
    with patch.dict(os.environ, {variable: store}):
        client: Celery = make_ours(url) if name == OURS else make_careful(url)
        assert client.backend.as_uri()
        return client


def _median_ms(app: Celery, size: int, number: int) -> float:
    member, body = app.tasks[MEMBER], app.tasks[BODY]
    return median(
        _milliseconds(chord([member.s(one) for one in range(size)], body.s()), size) for _ in range(number)
    )


def _milliseconds(canvas: chord, size: int) -> float:
    began = time.perf_counter()
    total = canvas.apply_async().get(timeout=_BOUND_SECONDS)
    assert total == size * (size - 1) // 2
    return (time.perf_counter() - began) * 1000
