"""Publishing one by one, each task confirmed before the next is sent."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.apps import make_ours, make_plain
from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.one_by_one import Pace, pace
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_ours, declare_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from benchmarks.bench import Bench

OURS, CELERY, DRAMATIQ = "broker-app", "Celery, `confirm_publish`", "dramatiq, `confirm_delivery`"
GOAL = 0.9


class QuorumBroker(RabbitmqBroker):
    """dramatiq's broker on the kind of queue that the others use: its own is classic, and cheaper to confirm."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


def run(bench: Bench) -> Report:
    """Publish in turn with broker-app, plain Celery and dramatiq, to a quorum queue each."""
    count, rounds = bench.pick((3_000, 7), (500, 3))
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (OURS, CELERY, DRAMATIQ)}
        declare_ours(urls[OURS])
        declare_plain(urls[CELERY])
        senders = {
            OURS: celery_sender(make_ours(urls[OURS])),
            CELERY: celery_sender(make_plain(urls[CELERY])),
            DRAMATIQ: dramatiq_sender(stack, urls[DRAMATIQ]),
        }
        for name, one in senders.items():
            _pace(one, urls[name], count // 10)
        contenders = {name: partial(_pace, one, urls[name], count) for name, one in senders.items()}
        paces = alternate(contenders, rounds, bench.say)
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    return Report(
        title=f"confirmed publishing, one by one, {count:,} small tasks a round, {rounds} rounds",
        columns=("contender", "tasks a second", "broker-app is faster by", "CPU for each, µs"),
        rows=tuple(
            (
                name,
                shown_spread(Spread.of(rates[name])),
                shown_spread(ratio(rates[OURS], rates[name]), "x"),
                shown_spread(Spread.of(work[name])),
            )
            for name in rates
        ),
        goals=(Goal("broker-app against plain Celery", ratio(rates[OURS], rates[CELERY]), GOAL),),
        notes=(
            "All publish persistent messages into a quorum queue, without results. broker-app and dramatiq "
            "publish `mandatory`, plain Celery does not. CPU: of the producer's process."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _pace(send_one: Callable[[], Any], url: str, count: int) -> Pace:
    """Publish ``count`` tasks, see that they are all there, and return how quick it was."""
    measured = pace(send_one, count)
    wait_for_depth(url, QUEUE, count)
    purge(url, QUEUE)
    return measured


def celery_sender(app: Celery) -> Callable[[], Any]:
    """Return what publishes one task by an app's `apply_async`."""
    return partial(send, app, "published", queue=QUEUE)


def dramatiq_sender(stack: ExitStack, url: str) -> Callable[[], Any]:
    """Return what publishes one message by an actor's ``send``."""
    broker = QuorumBroker(url=url, confirm_delivery=True)
    stack.callback(broker.close)

    def published(label: str) -> None:
        """Do nothing: no worker runs."""

    actor = dramatiq.actor(published, broker=broker, queue_name=QUEUE)
    return partial(actor.send, "published")
