"""Prioritised Celery work on RabbitMQ."""

from broker_app.app import BrokerApp, app

__all__ = ["BrokerApp", "app"]
