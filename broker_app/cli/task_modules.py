"""The app's task modules: imported before a command looks for a task by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.cli.command import described
from broker_app.errors import BrokerAppError, CallError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Task

    from broker_app.app import BrokerApp


def load_tasks(app: BrokerApp) -> Mapping[str, Task]:
    """Import the app's task modules, and return its tasks by name.

    Raises:
        CallError: A module fails to import.
    """
    try:
        app.loader.import_default_modules()
    except BrokerAppError:
        raise
    except Exception as error:
        raise CallError(
            f"the app's tasks: expected modules that can be imported, got: {described(error)}"
        ) from error
    tasks: Mapping[str, Task] = app.tasks
    return tasks
