"""Message form: validates task messages on arrival.

Celery detects errors too late: a chain that is not a list after the task has run, keyword arguments that are null
after the message was acknowledged (docs.celeryq.dev/en/stable/internals/protocol.html).
"""

from __future__ import annotations

from typing import Any

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.worker import request as celery_request
from kombu.exceptions import ContentDisallowed, DecodeError

from broker_app.publishing.validation import check_form, check_limits

HIDING = frozenset(
    {"_children", "_protected"}
    | {name for name in dir(Context) if callable(getattr(Context, name)) and not name.startswith("__")}
)
"""Headers with these names would hide attributes and methods of Celery's request context."""


class WellFormed(celery_request.Request):
    """Celery's request, for a valid message only.

    Raises:
        InvalidTaskError: The message is malformed.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        try:
            super().__init__(message, **options)
            check_form(self._request_dict, self._body if self._decoded else message.payload)
        except (InvalidTaskError, ContentDisallowed, DecodeError):
            raise
        except Exception as error:  # Celery parses it without checks: one odd message would end every worker
            raise InvalidTaskError(f"it cannot be parsed: {error!r}") from error
        check_limits(self.time_limits)  # checked here: in the pool, malformed limits would leak a slot
        if not HIDING.isdisjoint(self._request_dict):
            for name in HIDING.intersection(self._request_dict):
                del self._request_dict[name]
