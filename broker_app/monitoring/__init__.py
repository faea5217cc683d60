"""Monitoring: metrics over HTTP, health probes, Prometheus rules, and the status page."""
