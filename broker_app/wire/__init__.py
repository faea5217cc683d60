"""py-amqp made fast: frames, publisher confirms, connections. No app, no settings, no Celery."""
