"""A large number of scheduled tasks, laid down quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.pipeline import probes, publish_many
from benchmarks.topologies import QUEUE, Route, declare_ours, declare_plain, direct_route, lane_route

if TYPE_CHECKING:
    from celery import Celery

COUNTDOWN_SECONDS = 3_600
"""None comes due while it is measured."""


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One contender: where it keeps scheduled tasks.

    Attributes:
        app: Makes the messages.
        app_name: Of `benchmarks.apps`, for its worker.
        url: Of its virtual host.
        route: Of a scheduled task.
    """

    app: Celery
    app_name: str
    url: str
    route: Route

    def schedule(self, count: int) -> None:
        """Publish tasks as `apply_async` with a countdown of an hour would, all confirmed."""
        make = probes(self.app, "scheduled", countdown=COUNTDOWN_SECONDS)
        publish_many(self.url, count, make, lambda: self.route)


def lanes_scheduler(app: Celery, url: str) -> Scheduler:
    """Return broker-app's: they wait in a lane."""
    declare_ours(url, [COUNTDOWN_SECONDS])
    return Scheduler(app, "ours", url, lane_route(COUNTDOWN_SECONDS))


def worker_scheduler(app: Celery, url: str) -> Scheduler:
    """Return plain Celery's on classic queues: the worker takes them and holds them."""
    declare_plain(url, "classic")
    return Scheduler(app, "plain_classic", url, direct_route(QUEUE))
