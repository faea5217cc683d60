"""Bulk publishing: many tasks over one connection, each one confirmed."""

from broker_app.publishing.bulk.api import BulkPublication, PublishTotals, publish_many
from broker_app.publishing.bulk.item import ItemOutcome

__all__ = ["BulkPublication", "ItemOutcome", "PublishTotals", "publish_many"]
