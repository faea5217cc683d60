"""The broker: what it is asked and told (declarations, lanes, pauses, inventory, checks)."""
