"""Message encoder: Celery builds the first message of each kind of call; later ones come from a `Template`."""

from __future__ import annotations

import struct
import time
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import amqp
from celery import signals
from celery.canvas import Signature
from celery.utils import uuid
from celery.utils.time import maybe_make_aware
from kombu import serialization
from kombu.utils.json import JSONEncoder

from broker_app.errors import CallError, shortened
from broker_app.publishing.bulk.argsrepr import shown
from broker_app.publishing.bulk.item import BulkItem
from broker_app.publishing.bulk.signature import BulkCall, CallClassifier
from broker_app.publishing.bulk.template import Template, float_value, text_value
from broker_app.publishing.message import MessageBuilder
from broker_app.publishing.publisher import refusal
from broker_app.queues import NO_DELAY, Delay
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from celery import Celery
    from kombu.messaging import Producer

    from broker_app.publishing.message import OutgoingMessage

MAX_TEMPLATES = 1_000
"""Maximum number of cached templates, about 3 kB each. The cache is cleared when it is full."""


_JSON = JSONEncoder().encode
"""kombu's ``json`` encoder without its wrapper; a template uses it only where both give the same bytes."""


_SERIALISED = ("task", "args", "kwargs", "options")
"""Keys of every serialised signature (docs.celeryq.dev, canvas)."""


class MessageEncoder:
    """Encodes an app's signatures as messages.

    Args:
        app: The app.
        producer: Supplies the connection to publish on.
    """

    def __init__(self, app: Celery, producer: Producer) -> None:
        self._app = app
        self._producer = producer
        self._kinds = CallClassifier(app)
        self._templates: dict[Any, Template] = {}
        self._way = MessageBuilder(app, app.settings.routing_table(), app.settings.prefix).way
        self._levels = app.conf.task_repr_maxlevels
        self._longest_args, self._longest_kwargs = app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize
        self._channel = (0, 0)
        self._method = lru_cache(MAX_TEMPLATES)(frames.publish_method)

    def bind(self, channel: int, frame_max: int) -> None:
        """Encode messages for this channel from now on."""
        self._channel = (channel, frame_max)

    def draft(self, number: int, given: Signature | Mapping[str, Any]) -> BulkItem:
        """Return an item that is ready to send, or one settled with the error that prevents sending.

        Canvases and tasks that override `apply_async` are published here, by `apply_async`.

        Args:
            number: Position among the signatures, from 0.
            given: A signature, or a serialised one.
        """
        try:
            signature = _signature(given, self._app)
            call = self._kinds.call(signature)
        except Exception as error:  # noqa: BLE001 - reported to the caller per item
            return _refused(number, given, error)
        try:
            if call is None:
                return self._alone(number, signature)
            template = self._templates.get(call.key) if call.key is not None and not _has_receivers() else None
            return (
                self._from_celery(number, signature, call)
                if template is None
                else self._from_template(number, call, template)
            )
        except Exception as error:  # noqa: BLE001 - reported to the caller per item
            return _refused(number, signature, error)

    def _alone(self, number: int, signature: Signature) -> BulkItem:
        result = signature.apply_async()
        item = BulkItem(number, str(signature.get("task")), str(result.id or ""), is_alone=True)
        item.settle()
        return item

    def _from_celery(self, number: int, signature: Signature, call: BulkCall) -> BulkItem:
        """Let Celery build the message, and keep a template for similar calls."""
        kept: list[tuple[OutgoingMessage, Any, Context]] = []
        signature.apply_async(
            producer=self._producer,
            add_to_parent=False,  # the parent would hold a result of every item
            broker_app_keep=lambda *made: kept.append(made),
        )
        outgoing, message, context = kept[0]
        is_told = _has_receivers() or message.sent_event
        if call.key is not None and outgoing.spec is not None and not is_told:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            is_json = _JSON(message.body).encode() == outgoing.body if call.serializer == "json" else False
            self._templates[call.key] = Template(outgoing, outgoing.spec, message.body[2], is_json=is_json)
        return BulkItem(
            number=number,
            task=outgoing.task,
            task_id=outgoing.task_id,
            place=outgoing.place,
            spec=outgoing.spec,
            delay=outgoing.delay,
            address=(outgoing.task_id, outgoing.exchange, outgoing.routing_key),
            sent=self._encoded(outgoing),
            channel=self._channel,
            due=outgoing.due,
            told=(message, context) if is_told else None,
        )

    def _encoded(self, outgoing: OutgoingMessage) -> bytes:
        try:
            return frames.encode(*self._channel, outgoing.address, outgoing.properties, outgoing.body)
        except (amqp.FrameSyntaxError, struct.error) as error:
            raise refusal(outgoing, error) from error

    def _from_template(self, number: int, call: BulkCall, template: Template) -> BulkItem:
        """Build the message from its template."""
        began = time.monotonic()
        if call.check is not None:
            call.check(*call.args, **call.kwargs)
        task_id = call.task_id or uuid()
        delay, due = NO_DELAY, None
        if call.countdown is not None or call.eta is not None:
            delay, due = self._app._delay(call.countdown, call.eta, began)  # noqa: SLF001 - the app's own
        exchange, key = self._way(template.spec, delay)
        content = (call.args, call.kwargs, template.embed)
        body = _JSON(content) if template.is_json else serialization.dumps(content, call.serializer)[2]
        properties = template.properties(self._own_headers(call, template, task_id, delay, due), task_id)
        return BulkItem(
            number=number,
            task=call.task,
            task_id=task_id,
            place=template.spec.name,
            spec=template.spec,
            delay=delay,
            address=(task_id, exchange, key),
            sent=frames.join(
                *self._channel,
                self._method(self._channel[0], exchange, key),
                properties,
                body.encode() if isinstance(body, str) else body,
            ),
            channel=self._channel,
            due=began + delay.seconds if delay.lanes else None,
        )

    def _own_headers(
        self, call: BulkCall, template: Template, task_id: str, delay: Delay, due: Any
    ) -> dict[str, bytes]:
        return {
            "id": text_value(task_id),
            "eta": text_value(due and due.isoformat()),
            "expires": template.expires if call.expires is None else text_value(self._moment(call.expires)),
            "argsrepr": text_value(shown(call.args, self._longest_args, self._levels)),
            "kwargsrepr": text_value(shown(call.kwargs, self._longest_kwargs, self._levels)),
            PUBLISHED_AT_HEADER: float_value(time.time()),
            DELAY_HEADER: float_value(delay.seconds),
        }

    def _moment(self, seconds: float) -> str:
        """Return the time this many seconds from now, as Celery writes it."""
        moment = maybe_make_aware(self._app.now() + timedelta(seconds=seconds), tz=self._app.timezone)
        text: str = moment.isoformat()
        return text


def _signature(given: Any, app: Celery) -> Signature:
    if isinstance(given, Signature):
        return given
    if not isinstance(given, dict):
        raise CallError(f"expected a signature such as add.s(2, 2), got {shortened(repr(given))}")
    if missing := [key for key in _SERIALISED if key not in given]:
        raise CallError(f"expected a complete serialised signature, got one without {', '.join(missing)}")
    return Signature.from_dict(given, app=app)


def _has_receivers() -> bool:
    """Return whether a publish signal has a receiver; receivers see, and may change, every message."""
    return bool(signals.before_task_publish.receivers or signals.after_task_publish.receivers)


def _refused(number: int, given: Any, error: Exception) -> BulkItem:
    task, options = (given.get("task"), given.get("options")) if isinstance(given, dict) else (given, None)
    task_id = getattr(error, "task_id", None) or (options or {}).get("task_id") or ""
    item = BulkItem(number, str(task), str(task_id), str(getattr(error, "queue", "")))
    item.settle(error)
    return item
