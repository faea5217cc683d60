"""A file of tasks that the broker could not take yet, for producers that must not fail."""

from broker_app.publishing.spool.flush import Flushed, Flusher
from broker_app.publishing.spool.publisher import SpoolingPublisher
from broker_app.publishing.spool.store import SpoolStatus, Store

__all__ = ["Flushed", "Flusher", "SpoolStatus", "SpoolingPublisher", "Store"]
