"""Publishing many tasks at once, each confirmed."""

from broker_app.bulk.item import ItemOutcome
from broker_app.bulk.publishing import Publishing, Totals, publish_many

__all__ = ["ItemOutcome", "Publishing", "Totals", "publish_many"]
