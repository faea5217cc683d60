"""Celery integration: the classes and settings that we substitute for Celery's."""
