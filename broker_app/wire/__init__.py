"""Wire protocol on top of py-amqp: frames, publisher confirms and connections. Independent of the Celery app."""
