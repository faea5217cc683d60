"""Changing what exists on the broker: plan, diff, migrate, prune."""
