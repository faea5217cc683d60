"""Template filler: encodes the values of one call into a `Template`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from celery.utils.time import maybe_make_aware
from kombu import serialization
from kombu.utils.json import JSONEncoder

from broker_app.publishing.bulk.argsrepr import shown
from broker_app.publishing.bulk.template import Template, float_value, text_value
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from celery import Celery

    from broker_app.publishing.bulk.signature import BulkCall
    from broker_app.publishing.message import OutgoingMessage
    from broker_app.queues import Delay, QueueSpec

_JSON = JSONEncoder().encode
"""kombu's ``json`` encoder without its wrapper; a template uses it only where both give the same bytes."""


class TemplateFiller:
    """Encodes the values of calls as an app's configuration says.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._levels = app.conf.task_repr_maxlevels
        self._longest_args, self._longest_kwargs = app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize

    @staticmethod
    def template(outgoing: OutgoingMessage, spec: QueueSpec, body: tuple[object, object, object]) -> Template:
        """Return the template of a message that Celery built.

        Args:
            outgoing: The message.
            spec: Its target queue.
            body: Its body before it was serialised.
        """
        is_json = outgoing.properties["content_type"] == "application/json"
        return Template(outgoing, spec, body[2], is_json=is_json and _JSON(body).encode() == outgoing.body)

    @staticmethod
    def body(template: Template, call: BulkCall) -> bytes:
        """Return the serialised body of a call."""
        content = (call.args, call.kwargs, template.embed)
        body = _JSON(content) if template.is_json else serialization.dumps(content, call.serializer)[2]
        return body.encode() if isinstance(body, str) else body

    def properties(
        self,
        template: Template,
        call: BulkCall,
        task_id: str,
        delay: Delay,
        due: datetime | None,
        published_at: float,
    ) -> bytes:
        """Return the encoded properties of a call.

        Args:
            template: The template.
            call: The call.
            task_id: Its id.
            delay: Its delay.
            due: When the delay ends; None if it has none.
            published_at: The time of the call, as `time.time`.
        """
        own = {
            "id": text_value(task_id),
            "eta": text_value(due.isoformat() if due else None),
            "expires": template.expires if call.expires is None else text_value(self._moment(call.expires)),
            "argsrepr": text_value(shown(call.args, self._longest_args, self._levels)),
            "kwargsrepr": text_value(shown(call.kwargs, self._longest_kwargs, self._levels)),
            PUBLISHED_AT_HEADER: float_value(published_at),
            DELAY_HEADER: float_value(delay.seconds),
        }
        return template.properties(own, task_id)

    def _moment(self, seconds: float) -> str:
        """Return the time this many seconds from now, as Celery writes it."""
        moment = maybe_make_aware(self._app.now() + timedelta(seconds=seconds), tz=self._app.timezone)
        text: str = moment.isoformat()
        return text
