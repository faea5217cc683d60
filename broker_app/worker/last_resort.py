"""The last line of defence: whatever fails when the end of a task is told, its message is settled."""

from __future__ import annotations

import logging
import traceback
from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.exceptions import TaskRevokedError

from broker_app.celery_integration.tracer import ENDS_OF_WORKER, contained

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


def begun(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap what a request does when its task begins: the task runs, whatever fails in it."""

    @wraps(method)
    def on_accepted(self: Any, *args: Any) -> None:
        try:
            method(self, *args)
        except (TaskRevokedError, *ENDS_OF_WORKER):  # the first is: it is not to run
            raise
        except BaseException:
            logger.exception("%s: its start could not be told; it runs", self.humaninfo())

    return on_accepted


def settled(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap what a request does when its task has ended: then its message is settled."""

    @wraps(method)
    def end(self: Any, *args: Any, **options: Any) -> None:
        error: BaseException | None = None
        try:
            method(self, *args, **options)
        except ENDS_OF_WORKER:
            raise
        except BaseException as raised:
            error = raised
            logger.exception("%s: its end could not be told", self.humaninfo())
        is_unsettled = not self.acknowledged and not self._already_cancelled
        if is_unsettled and not options.get("soft"):
            told = "".join(traceback.format_exception(error)) if error else ""
            with contained("%s: settling its message", self.humaninfo()):
                self.settle_anyway(error, told)

    return end
