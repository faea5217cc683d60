"""A broker for the demo and the tests: the one that is given, one in Docker, or a private node of this machine."""

from broker_app.local_broker.finder import (
    DEFAULT_IMAGE,
    FoundBroker,
    Way,
    attach_broker,
    end_leftovers,
    find_broker,
)
from broker_app.local_broker.private_node import PrivateNode

__all__ = ["DEFAULT_IMAGE", "FoundBroker", "PrivateNode", "Way", "attach_broker", "end_leftovers", "find_broker"]
