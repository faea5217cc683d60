"""Message encoder: Celery builds the first message of each kind of call; later ones come from a `Template`."""

from __future__ import annotations

import struct
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import amqp
from celery import signals
from celery.canvas import Signature
from celery.utils import uuid

from broker_app.errors import CallError, shortened
from broker_app.publishing.bulk.filler import TemplateFiller
from broker_app.publishing.bulk.item import BulkItem
from broker_app.publishing.bulk.signature import BulkCall, CallClassifier
from broker_app.publishing.call_times import requested_delay
from broker_app.publishing.encoding import not_encodable
from broker_app.publishing.message import MessageBuilder
from broker_app.publishing.publisher import refusal
from broker_app.queues import NO_DELAY
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from celery import Celery
    from kombu.messaging import Producer

    from broker_app.publishing.bulk.template import Template
    from broker_app.publishing.message import OutgoingMessage

MAX_TEMPLATES = 1_000
"""Maximum number of cached templates, about 3 kB each. The cache is cleared when it is full."""


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
        self._filler = TemplateFiller(app)
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
            template = self._templates.get(call.key) if call.key is not None and not has_receivers() else None
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
        is_told = has_receivers() or message.sent_event
        if call.key is not None and outgoing.spec is not None and not is_told:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            self._templates[call.key] = self._filler.template(outgoing, outgoing.spec, message.body)
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
            delay, due = requested_delay(self._app, call.countdown, call.eta, began)
        exchange, key = self._way(template.spec, delay)
        properties = self._filler.properties(template, call, task_id, delay, due, time.time())
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
                self._body(template, call),
            ),
            channel=self._channel,
            due=began + delay.seconds if delay.lanes else None,
        )

    def _body(self, template: Template, call: BulkCall) -> bytes:
        try:
            return self._filler.body(template, call)
        except Exception as error:
            body = (call.args, call.kwargs, template.embed)
            raise not_encodable(body, call.serializer, call.task, template.spec.name, error) from error


def _signature(given: Any, app: Celery) -> Signature:
    if isinstance(given, Signature):
        return given
    if not isinstance(given, dict):
        raise CallError(f"expected a signature such as add.s(2, 2), got {shortened(repr(given))}")
    if missing := [key for key in _SERIALISED if key not in given]:
        raise CallError(f"expected a complete serialised signature, got one without {', '.join(missing)}")
    return Signature.from_dict(given, app=app)


def has_receivers() -> bool:
    """Return whether a publish signal has a receiver; receivers see, and may change, every message."""
    return bool(signals.before_task_publish.receivers or signals.after_task_publish.receivers)


def _refused(number: int, given: Any, error: Exception) -> BulkItem:
    task, options = (given.get("task"), given.get("options")) if isinstance(given, dict) else (given, None)
    task_id = getattr(error, "task_id", None) or (options or {}).get("task_id") or ""
    item = BulkItem(number, str(task), str(task_id), str(getattr(error, "queue", "")))
    item.settle(error)
    return item
