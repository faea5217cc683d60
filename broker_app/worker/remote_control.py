"""Remote control: commands that replace Celery's in our workers."""

from __future__ import annotations

from typing import Any

from celery.worker import control

from broker_app.queues import UnknownQueue

_celerys = control.Panel.data["add_consumer"]
_known = control.Panel.meta["add_consumer"]


@control.control_command(name="add_consumer", args=_known.args, signature=_known.signature, help=_known.help)
def add_consumer(state: Any, queue: str, *args: Any, **options: Any) -> Any:
    """Consume from another queue; the reply refuses a queue that the settings do not have."""
    settings = getattr(state.app, "settings", None)  # a plain Celery app in this process has none
    if settings is not None:
        try:
            settings.routing_table().queue(queue)
        except UnknownQueue as error:
            return control.nok(str(error))
    return _celerys(state, queue, *args, **options)
