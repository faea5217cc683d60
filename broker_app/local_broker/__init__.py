"""Local broker: a broker for the demo and the tests, at a given URL, in Docker, or as a private node."""

from broker_app.local_broker.finder import (
    DEFAULT_IMAGE,
    BrokerSource,
    FoundBroker,
    attach_broker,
    end_leftovers,
    find_broker,
)
from broker_app.local_broker.private_node import PrivateNode

__all__ = [
    "DEFAULT_IMAGE",
    "BrokerSource",
    "FoundBroker",
    "PrivateNode",
    "attach_broker",
    "end_leftovers",
    "find_broker",
]
