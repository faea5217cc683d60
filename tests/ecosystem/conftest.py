"""Fixtures of the tests that run the real packages which Celery's users put beside it."""
