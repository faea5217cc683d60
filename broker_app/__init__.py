"""Prioritised Celery work on RabbitMQ."""

from broker_app.app import BrokerApp, app
from broker_app.publishing.bulk import publish_many
from broker_app.queues import Backoff

__all__ = ["Backoff", "BrokerApp", "app", "publish_many"]
