"""From signatures to messages: by Celery once for each kind of call, and from a mould for all that are like it."""

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
from broker_app.queues import Delay
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from celery import Celery
    from kombu.messaging import Producer

    from broker_app.publishing.message import OutgoingMessage

MOST_MOULDS = 1_000
"""More kinds of calls than these are rare; the moulds are made anew then. A mould takes some 3 kB."""


_JSON = JSONEncoder().encode
"""What kombu's serializer ``json`` does, without what it does around it; compared before it is relied on."""

_NOW = Delay((), 0.0)

_SERIALISED = ("task", "args", "kwargs", "options")
"""What each signature has (docs.celeryq.dev, canvas)."""


class MessageEncoder:
    """Makes messages of an app's signatures.

    Args:
        app: The app.
        producer: Its connection is the one that is published on.
    """

    def __init__(self, app: Celery, producer: Producer) -> None:
        self._app = app
        self._producer = producer
        self._kinds = CallClassifier(app)
        self._moulds: dict[Any, Template] = {}
        self._way = MessageBuilder(app, app.settings.routing_table(), app.settings.prefix).way
        self._levels = app.conf.task_repr_maxlevels
        self._longest_args, self._longest_kwargs = app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize
        self._channel = (0, 0)
        self._method = lru_cache(MOST_MOULDS)(frames.publish_method)

    def bind(self, channel: int, frame_max: int) -> None:
        """Make messages for this channel from now on."""
        self._channel = (channel, frame_max)

    def draft(self, number: int, given: Signature | Mapping[str, Any]) -> BulkItem:
        """Return a signature as an item that is ready to be sent, or settled with why it cannot be.

        A canvas, and a task that publishes in its own way, is called here, by `apply_async`.

        Args:
            number: Its place, from 0.
            given: A signature, or one that was serialised.
        """
        try:
            signature = _signature(given, self._app)
            call = self._kinds.call(signature)
        except Exception as error:  # noqa: BLE001 - the caller is told, item by item
            return _refused(number, given, error)
        try:
            if call is None:
                return self._alone(number, signature)
            mould = self._moulds.get(call.key) if call.key is not None and not _somebody_listens() else None
            return self._captured(number, signature, call) if mould is None else self._cast(number, call, mould)
        except Exception as error:  # noqa: BLE001 - the caller is told, item by item
            return _refused(number, signature, error)

    def _alone(self, number: int, signature: Signature) -> BulkItem:
        result = signature.apply_async()
        item = BulkItem(number, str(signature.get("task")), str(result.id or ""), is_alone=True)
        item.settle()
        return item

    def _captured(self, number: int, signature: Signature, call: BulkCall) -> BulkItem:
        """Let Celery make the message, and keep what is the same for all calls like this."""
        kept: list[tuple[OutgoingMessage, Any, Context]] = []
        signature.apply_async(
            producer=self._producer,
            add_to_parent=False,  # the parent would hold a result of every item
            broker_app_keep=lambda *made: kept.append(made),
        )
        outgoing, message, context = kept[0]
        is_told = _somebody_listens() or message.sent_event
        if call.key is not None and outgoing.spec is not None and not is_told:
            if len(self._moulds) >= MOST_MOULDS:
                self._moulds.clear()
            is_json = _JSON(message.body).encode() == outgoing.body if call.serializer == "json" else False
            self._moulds[call.key] = Template(outgoing, outgoing.spec, message.body[2], is_json=is_json)
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

    def _cast(self, number: int, call: BulkCall, mould: Template) -> BulkItem:
        """Make the message from its mould."""
        began = time.monotonic()
        if call.check is not None:
            call.check(*call.args, **call.kwargs)
        task_id = call.task_id or uuid()
        delay, due = _NOW, None
        if call.countdown is not None or call.eta is not None:
            delay, due = self._app._delay(call.countdown, call.eta, began)  # noqa: SLF001 - the app's own
        exchange, key = self._way(mould.spec, delay)
        content = (call.args, call.kwargs, mould.embed)
        body = _JSON(content) if mould.is_json else serialization.dumps(content, call.serializer)[2]
        properties = mould.properties(self._own_headers(call, mould, task_id, delay, due), task_id)
        return BulkItem(
            number=number,
            task=call.task,
            task_id=task_id,
            place=mould.spec.name,
            spec=mould.spec,
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
        self, call: BulkCall, mould: Template, task_id: str, delay: Delay, due: Any
    ) -> dict[str, bytes]:
        return {
            "id": text_value(task_id),
            "eta": text_value(due and due.isoformat()),
            "expires": mould.expires if call.expires is None else text_value(self._moment(call.expires)),
            "argsrepr": text_value(shown(call.args, self._longest_args, self._levels)),
            "kwargsrepr": text_value(shown(call.kwargs, self._longest_kwargs, self._levels)),
            PUBLISHED_AT_HEADER: float_value(time.time()),
            DELAY_HEADER: float_value(delay.seconds),
        }

    def _moment(self, seconds: float) -> str:
        """Return the moment that is this far from now, as Celery writes it."""
        moment = maybe_make_aware(self._app.now() + timedelta(seconds=seconds), tz=self._app.timezone)
        text: str = moment.isoformat()
        return text


def _signature(given: Any, app: Celery) -> Signature:
    if isinstance(given, Signature):
        return given
    if not isinstance(given, dict):
        raise CallError(f"expected a signature such as add.s(2, 2), got {shortened(repr(given))}")
    if missing := [key for key in _SERIALISED if key not in given]:
        raise CallError(f"expected a whole serialised signature, got one without {', '.join(missing)}")
    return Signature.from_dict(given, app=app)


def _somebody_listens() -> bool:
    """Return whether a signal of publishing has a receiver: it is shown, and may change, every message."""
    return bool(signals.before_task_publish.receivers or signals.after_task_publish.receivers)


def _refused(number: int, given: Any, error: Exception) -> BulkItem:
    task, options = (given.get("task"), given.get("options")) if isinstance(given, dict) else (given, None)
    task_id = getattr(error, "task_id", None) or (options or {}).get("task_id") or ""
    item = BulkItem(number, str(task), str(task_id), str(getattr(error, "queue", "")))
    item.settle(error)
    return item
