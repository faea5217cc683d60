"""Publishing many tasks at once, each confirmed."""

from broker_app.publishing.bulk.api import Publishing, Totals, publish_many
from broker_app.publishing.bulk.item import ItemOutcome

__all__ = ["ItemOutcome", "Publishing", "Totals", "publish_many"]
