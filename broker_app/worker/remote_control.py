"""Remote control of workers: the commands in which ours differ from Celery's."""

from __future__ import annotations

from typing import Any

from celery.worker import control

from broker_app.queues import UnknownQueue

_celerys = control.Panel.data["add_consumer"]
_known = control.Panel.meta["add_consumer"]


@control.control_command(name="add_consumer", args=_known.args, signature=_known.signature, help=_known.help)
def add_consumer(state: Any, queue: str, *args: Any, **options: Any) -> Any:
    """Tell a worker to consume from one more queue; one that its settings do not have is refused in the reply."""
    settings = getattr(state.app, "settings", None)  # another Celery app of this process has none
    if settings is not None:
        try:
            settings.routing_table().queue(queue)
        except UnknownQueue as error:
            return control.nok(str(error))
    return _celerys(state, queue, *args, **options)
