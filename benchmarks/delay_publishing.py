"""Publishing into a delay, many messages on their way at once: what the topology of the delay costs."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.pipeline import WINDOW, payload, publish_many
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, Route, declare_native, declare_ours, lane_route, native_route

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.one_by_one import Pace

OURS, NATIVE = "delay lanes", "Celery's native levels"
DELAY_SECONDS = 7
PAYLOAD_BYTES = 300
_ARRIVAL_SECONDS = 300.0  # bounds the wait for all; on 3.10 the native levels are busy long after

GOAL_BEFORE_4, GOAL_SINCE_4 = 20.0, 8.0


def run(bench: Bench) -> Report:
    """Publish messages with one delay in turn into lanes and native levels, by the same raw publisher."""
    count, rounds = bench.pick((10_000, 3), (1_000, 3))
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (OURS, NATIVE)}
        declare_ours(urls[OURS], [DELAY_SECONDS])
        declare_native(urls[NATIVE])
        routes = {OURS: lane_route(DELAY_SECONDS), NATIVE: native_route(DELAY_SECONDS)}
        for name, route in routes.items():
            _pace(urls[name], route, count // 10)
        paces = alternate(
            {name: partial(_pace, urls[name], route, count) for name, route in routes.items()}, rounds, bench.say
        )
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    major = int(bench.broker.version.split(".")[0])
    goal = GOAL_SINCE_4 if major >= 4 else GOAL_BEFORE_4  # noqa: PLR2004 - RabbitMQ 4
    return Report(
        title=f"confirmed publishing of {count:,} messages with a delay of {DELAY_SECONDS} s, {rounds} rounds",
        columns=("topology", "messages a second", "CPU of the publisher for each, µs"),
        rows=tuple(
            (name, shown_spread(Spread.of(rates[name])), shown_spread(Spread.of(work[name]))) for name in rates
        ),
        goals=(Goal("lanes against native", ratio(rates[OURS], rates[NATIVE]), goal),),
        notes=(
            f"Both by one py-amqp publisher, {PAYLOAD_BYTES} bytes, persistent, at most {WINDOW} unconfirmed; "
            "all messages arrived in the work queue, none twice. The publisher's CPU bounds what can be seen of "
            "the lanes: a second of it is the most that one publisher can use in a second."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _pace(url: str, route: Route, count: int) -> Pace:
    """Publish, see that all arrive when their time has come, and return how quick the publishing was."""
    measured = publish_many(url, count, payload(PAYLOAD_BYTES), lambda: route)
    wait_for_depth(url, QUEUE, count, _ARRIVAL_SECONDS)
    purge(url, QUEUE)
    return measured
