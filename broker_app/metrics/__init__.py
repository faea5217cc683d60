"""Metrics: recorded by each process in a file of the state folder, and served to Prometheus.

Producers and workers write their numbers to files (`storage`), without Celery's events; the metrics server of the
host reads all of them. docs/reference/metrics.md lists the metrics.
"""
