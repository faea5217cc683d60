"""The spool: a file of tasks that could not be published yet, for producers that must not fail."""

from broker_app.publishing.spool.flush import Flusher, FlushResult
from broker_app.publishing.spool.publisher import SpoolingPublisher
from broker_app.publishing.spool.store import SpoolFile, SpoolStatus

__all__ = ["FlushResult", "Flusher", "SpoolFile", "SpoolStatus", "SpoolingPublisher"]
