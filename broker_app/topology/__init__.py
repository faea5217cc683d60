"""Topology changes on the broker: plan, diff, migrate, prune and retire."""
