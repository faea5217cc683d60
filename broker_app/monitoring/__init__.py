"""Showing: metrics over HTTP, probes, Prometheus rules, the status page."""
