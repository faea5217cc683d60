"""A broker for the demo and the tests: the one that is given, one in Docker, or a private node of this machine."""

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
