"""The contenders as Celery apps: broker-app, and plain Celery on the same kinds of queues.

A worker finds them as ``celery -A benchmarks.apps:ours``; its broker comes with the environment.
"""

from __future__ import annotations

from celery import Celery

from benchmarks.probe import install
from benchmarks.topologies import OTHER_QUEUE, QUEUE, plain_queue
from broker_app import BrokerApp


def make_ours(url: str | None = None) -> BrokerApp:
    """Return a BrokerApp with its built-in settings and the probe task."""
    return install(BrokerApp("benchmarks", broker=url, set_as_current=False))


def make_plain(url: str | None = None, queue_type: str = "quorum") -> Celery:
    """Return plain Celery with confirms, its other settings as they come, and the probe task.

    With a quorum queue it uses its native delayed delivery; with classic ones its workers hold a countdown.
    """
    plain = Celery("benchmarks", broker=url, set_as_current=False)
    plain.conf.update(
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        task_queues=[plain_queue(name, queue_type) for name in (QUEUE, OTHER_QUEUE)],
        task_default_queue=QUEUE,
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
        task_default_routing_key=QUEUE,
    )
    return install(plain)


def make_careful(url: str | None = None) -> Celery:
    """Return plain Celery, tuned as broker-app is: late acks and one message for each slot."""
    careful = make_plain(url)
    careful.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
    return careful


ours = make_ours()
plain = make_plain()
plain_classic = make_plain(queue_type="classic")
careful = make_careful()
