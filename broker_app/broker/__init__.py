"""Broker access: declarations, delay lanes, pauses, cancellations, inventory, permissions and checks."""
