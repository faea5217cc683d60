"""Awaitable calls of 64 coroutines against other ways to publish, and the lag of the loop without a broker."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.apps import make_ours
from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, percentile, ratio, shown_spread
from benchmarks.one_by_one import Pace, pace
from benchmarks.probe import TASK
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_ours
from broker_app.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from broker_app import BrokerApp

ONE_BY_ONE, AWAITED, MANY = "`apply_async`, one by one", "64 coroutines, `aapply_async`", "`publish_many`"
COROUTINES = 64
TICK_SECONDS = 0.005
GOALS = {ONE_BY_ONE: 5.0, MANY: 0.7}
MOST_LAG_MS = 10.0


def run(bench: Bench) -> Report:
    """Publish in turn in the three ways to a quorum queue, then measure the loop's lag without a broker."""
    count, rounds = bench.pick((6_400, 7), (1_280, 3))
    with bench.virtual_host() as url:
        declare_ours(url)
        app = make_ours(url)
        measures = {
            ONE_BY_ONE: partial(pace, partial(app.tasks[TASK].apply_async, ("published",))),
            AWAITED: partial(_awaited, app),
            MANY: partial(_many, app),
        }
        contenders = {name: partial(_checked, one, url) for name, one in measures.items()}
        for one in contenders.values():
            one(count // 10)
        paces = alternate({name: partial(one, count) for name, one in contenders.items()}, rounds, bench.say)
        app.close()
    seconds = bench.pick(10.0, 2.0)
    idle, lags = zip(*(asyncio.run(_lags_ms(seconds)) for _ in range(rounds)), strict=True)
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    goals = [Goal(f"against {name}", ratio(rates[AWAITED], rates[name]), GOALS[name]) for name in GOALS]
    goals.append(Goal("loop lag, p99", Spread.of(lags), MOST_LAG_MS, is_ceiling=True, unit=" ms"))
    return Report(
        title=f"{count:,} small tasks a round, {rounds} rounds",
        columns=("contender", "tasks a second", "CPU for each, µs"),
        rows=tuple(
            (name, shown_spread(Spread.of(rates[name])), shown_spread(Spread.of(work[name]))) for name in rates
        ),
        goals=tuple(goals),
        notes=(
            f"All confirm. The lag: while {COROUTINES} coroutines publish to a broker that is away. Of an idle "
            f"loop it was {shown_spread(Spread.of(idle), ' ms')}."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work} | {"lag ms": lags, "idle ms": idle},
    )


def _checked(measure: Callable[[int], Pace], url: str, count: int) -> Pace:
    measured = measure(count)
    wait_for_depth(url, QUEUE, count)
    purge(url, QUEUE)
    return measured


def _awaited(app: BrokerApp, count: int) -> Pace:
    return _timed(lambda: asyncio.run(_publish(app, count)), count)


def _many(app: BrokerApp, count: int) -> Pace:
    task = app.tasks[TASK]
    return _timed(lambda: app.publish_many(task.s("published") for _ in range(count)).run(), count)


def _timed(publish: Callable[[], Any], count: int) -> Pace:
    started, worked = time.perf_counter(), time.process_time()
    publish()
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return Pace(count / seconds, worked / count * 1e6)


async def _publish(app: BrokerApp, count: int) -> None:
    task, left = app.tasks[TASK], iter(range(count))

    async def _some() -> None:
        for _ in left:
            await task.aapply_async(("published",))

    await asyncio.gather(*(_some() for _ in range(COROUTINES)))


async def _lags_ms(seconds: float) -> tuple[float, float]:
    """Return the lag of an idle loop, then the one while coroutines publish to a broker that is away (p99)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    app = make_ours(f"amqp://guest:guest@127.0.0.1:{port}//")
    assert app.amqp.publisher  # the settings load now, not in the first call
    idle = await _lag_ms(seconds)
    end = time.monotonic() + seconds

    async def _fail() -> None:
        while time.monotonic() < end:
            with suppress(PublishError):
                await app.tasks[TASK].aapply_async(("published",))

    failing = [asyncio.create_task(_fail()) for _ in range(COROUTINES)]
    lag = await _lag_ms(seconds)
    await asyncio.gather(*failing)
    return idle, lag


async def _lag_ms(seconds: float) -> float:
    end, lags = time.monotonic() + seconds, []
    while time.monotonic() < end:
        began = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        lags.append((time.monotonic() - began - TICK_SECONDS) * 1000)
    return percentile(lags, 99)
