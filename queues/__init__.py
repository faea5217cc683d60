"""Broker entities as plain values: queues, delay lanes, routing and retries. Nothing here opens a connection."""

from broker_app.queues.delay import NO_DELAY, Delay, Lane, rest_of, split_delay, split_rest
from broker_app.queues.duration import parse_duration
from broker_app.queues.errors import (
    BrokerAppError,
    InvalidDelay,
    InvalidPriority,
    InvalidQueueName,
    RoutingError,
    UnknownQueue,
)
from broker_app.queues.names import Names
from broker_app.queues.rabbitmq import missing_features
from broker_app.queues.retry import Backoff
from broker_app.queues.routing import NameRouter, RoutingTable
from broker_app.queues.spec import DeadLetters, QueueSpec, QueueType
from broker_app.queues.topology import Topology, lane_topology, work_queue, work_topology

__all__ = [
    "NO_DELAY",
    "Backoff",
    "BrokerAppError",
    "DeadLetters",
    "Delay",
    "InvalidDelay",
    "InvalidPriority",
    "InvalidQueueName",
    "Lane",
    "NameRouter",
    "Names",
    "QueueSpec",
    "QueueType",
    "RoutingError",
    "RoutingTable",
    "Topology",
    "UnknownQueue",
    "lane_topology",
    "missing_features",
    "parse_duration",
    "rest_of",
    "split_delay",
    "split_rest",
    "work_queue",
    "work_topology",
]
