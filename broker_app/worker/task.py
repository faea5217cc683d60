"""The base class of the app's tasks."""

from __future__ import annotations

from celery.app import task as celery_task


class Task(celery_task.Task):
    """Celery's task, delivered as our `Request`."""

    Request = "broker_app.worker.request:Request"
