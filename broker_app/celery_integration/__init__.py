"""The classes that Celery loads by name."""
