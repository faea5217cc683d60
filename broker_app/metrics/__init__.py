"""Metrics: counted where things happen, kept in files of the state folder, served to Prometheus.

Producers and workers count in memory that is a file (`storage`), without Celery's events; the server of the host
reads the files of all of them. docs/metrics.md lists what there is.
"""
