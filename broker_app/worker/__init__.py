"""What differs from Celery's own worker."""
