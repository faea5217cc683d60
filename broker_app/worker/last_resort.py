"""Last resort: settles a task's message even if reporting the task's outcome fails."""

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
    """Wrap a request's start handler: if it fails, the task runs all the same."""

    @wraps(method)
    def on_accepted(self: Any, *args: Any) -> None:
        try:
            method(self, *args)
        except (TaskRevokedError, *ENDS_OF_WORKER):  # TaskRevokedError: the task must not run
            raise
        except BaseException:
            logger.exception("%s: failed to report its start; it runs all the same", self.humaninfo())

    return on_accepted


def settled(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a request's end handler: its message is settled afterwards, even if the handler fails."""

    @wraps(method)
    def end(self: Any, *args: Any, **options: Any) -> None:
        error: BaseException | None = None
        try:
            method(self, *args, **options)
        except ENDS_OF_WORKER:
            raise
        except BaseException as raised:
            error = raised
            logger.exception("%s: failed to report its outcome", self.humaninfo())
        is_unsettled = not self.acknowledged and not self._already_cancelled
        if is_unsettled and not options.get("soft"):
            text = "".join(traceback.format_exception(error)) if error else ""
            with contained("%s: settling its message", self.humaninfo()):
                self.settle_anyway(error, text)

    return end
