"""Worker: our consumer, requests, deliveries, dead letters, time limits and shutdown, in place of Celery's."""
