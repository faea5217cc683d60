"""What exists on the broker, as values. No connection is opened here."""

from broker_app.queues.backoff import Backoff
from broker_app.queues.definitions import (
    Names,
    Topology,
    lane_topology,
    missing_features,
    work_queue,
    work_topology,
)
from broker_app.queues.delay import Delay, Lane, rest_of, split_delay, split_rest
from broker_app.queues.errors import (
    BrokerAppError,
    InvalidDelay,
    InvalidPriority,
    InvalidQueueName,
    RoutingError,
    UnknownQueue,
)
from broker_app.queues.routing import RoutingTable
from broker_app.queues.spec import DeadLetters, QueueSpec, QueueType

__all__ = [
    "Backoff",
    "BrokerAppError",
    "DeadLetters",
    "Delay",
    "InvalidDelay",
    "InvalidPriority",
    "InvalidQueueName",
    "Lane",
    "Names",
    "QueueSpec",
    "QueueType",
    "RoutingError",
    "RoutingTable",
    "Topology",
    "UnknownQueue",
    "lane_topology",
    "missing_features",
    "rest_of",
    "split_delay",
    "split_rest",
    "work_queue",
    "work_topology",
]
