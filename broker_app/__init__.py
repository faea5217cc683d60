"""Prioritised Celery work on RabbitMQ."""

from broker_app.app import BrokerApp, app
from broker_app.bulk import publish_many

__all__ = ["BrokerApp", "app", "publish_many"]
