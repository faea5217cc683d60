"""Single calls: the message of a plain call comes from a template, as in `publish_many`, instead of from Celery.

Celery builds the message of the first calls of each kind. The template then gives the same bytes for a fraction
of the work. Calls that something else may look at, or whose message depends on more than their options, always
take Celery's way: see `_Snapshot.is_plain` and `SingleCalls.find`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app import base
from celery.app.amqp import AMQP
from celery.app.routes import Router
from celery.utils import uuid

from broker_app.publishing import trace_context
from broker_app.publishing.bulk.encoder import MAX_TEMPLATES, has_receivers
from broker_app.publishing.bulk.filler import TemplateFiller
from broker_app.publishing.bulk.signature import LONGEST_ID, BulkCall, is_alike, is_seconds
from broker_app.publishing.message import MESSAGE_OPTIONS, OutgoingMessage
from broker_app.wire import frames

if TYPE_CHECKING:
    from datetime import datetime

    from broker_app.publishing.bulk.template import Template
    from broker_app.publishing.publisher import Publisher
    from broker_app.queues import Delay
    from broker_app.wire.confirm_channel import ConfirmChannel

_APART = frozenset({"task_id", "expires", "task_type", "result_cls"})
"""Options that do not belong to a kind of call: each call has its own, or they do not change the message."""

_CELERYS_WAY = MESSAGE_OPTIONS | {
    *("argsrepr", "kwargsrepr", "compression", "producer", "publisher", "connection", "root_id", "parent_id"),
    *("group_id", "group_index", "router", "correlation_id"),
}
"""Options that take Celery's way: they belong to one message, or change how it is sent."""

_PLAIN = frozenset({str, int, bool, float})

_send_task, _as_task_v2 = Celery.send_task, AMQP.as_task_v2
"""Celery's own, unless an instrumentation has replaced them before this module was imported."""


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A call whose message may come from a template.

    Attributes:
        call: The call.
        key: Its kind.
        snapshot: What the templates depend on.
    """

    call: BulkCall
    key: Any
    snapshot: _Snapshot

    @property
    def template(self) -> Template | None:
        """The template of its kind; None until one is made."""
        return self.snapshot.templates.get(self.key)

    def note(self, outgoing: OutgoingMessage, message: Any) -> None:
        """Make a template of the message that Celery built for this call, if its kind was seen before."""
        templates, seen = self.snapshot.templates, self.snapshot.seen
        if self.key not in seen:  # most kinds of a short program are used once
            if len(seen) >= MAX_TEMPLATES:
                seen.clear()
            seen.add(self.key)
        elif outgoing.spec is not None and not message.sent_event and not has_receivers():
            if len(templates) >= MAX_TEMPLATES:
                templates.clear()
            templates[self.key] = self.snapshot.filler.template(outgoing, outgoing.spec, message.body)


class SingleCalls:
    """Finds the calls of an app that need no Celery, and builds their messages.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._snapshot: _Snapshot | None = None

    def find(self, name: str, args: Any, kwargs: Any, delay: Delay, options: dict[str, Any]) -> PlainCall | None:
        """Return the call if a template can serve it, None if Celery must build its message.

        Args:
            name: The task's name.
            args: Positional arguments.
            kwargs: Keyword arguments.
            delay: Its delay.
            options: Those of `send_task`, without countdown and eta.
        """
        if options.get("task_type") is None or has_receivers() or self._app.current_worker_task:
            return None
        args, kwargs = args or (), kwargs or {}
        expires, task_id = options.get("expires"), options.get("task_id") or None
        if type(args) not in (tuple, list) or type(kwargs) is not dict or _is_traced():
            return None
        if expires is not None and (
            delay.seconds or not is_seconds(expires)
        ):  # compared with the end of the delay
            return None
        if len(task_id or "") > LONGEST_ID:
            return None
        snapshot, kind = self._current(), _kind(options)
        if kind is None or not snapshot.is_plain:
            return None
        key = (name, self._app.thread_oid, expires is None, kind)
        serializer = options.get("serializer") or snapshot.serializer
        call = BulkCall(key, name, args, kwargs, serializer, None, task_id, expires=expires)
        return PlainCall(call, key, snapshot)

    def build(
        self, plain: PlainCall, publisher: Publisher, delay: Delay, due: datetime | None, began: float
    ) -> TemplatedMessage | None:
        """Return a message from the call's template; None if there is none, or it cannot be encoded.

        Args:
            plain: The call.
            publisher: Knows the way to a queue.
            delay: Its delay.
            due: When the delay ends; None if it has none.
            began: The start of the call, on the clock of `time.monotonic`.
        """
        template, call = plain.template, plain.call
        if template is None:
            return None
        task_id = call.task_id or uuid()
        published_at = time.time() - (time.monotonic() - began if delay.seconds else 0.0)
        filler = plain.snapshot.filler
        try:
            body = filler.body(template, call)
            encoded = filler.properties(template, call, task_id, delay, due, published_at)
        except Exception:  # noqa: BLE001 - Celery's way raises the error that it always raised
            return None
        exchange, key = publisher.way(template.spec, delay)
        return TemplatedMessage(
            encoded,
            task=call.task,
            task_id=task_id,
            spec=template.spec,
            delay=delay,
            exchange=exchange,
            routing_key=key,
            body=body,
            due=began + delay.seconds if delay.lanes else None,
        )

    def _current(self) -> _Snapshot:
        snapshot = self._snapshot
        if snapshot is None or not snapshot.is_current(self._app):
            snapshot = self._snapshot = _Snapshot(self._app)
        return snapshot


class TemplatedMessage(OutgoingMessage):
    """A message that is encoded already; its properties are decoded only if something reads them."""

    __slots__ = ("_encoded",)

    def __init__(self, encoded: bytes, **fields: Any) -> None:
        super().__init__(properties={}, **fields)
        self._encoded = encoded
        del self.properties  # unset: the first access calls `__getattr__`

    def __getattr__(self, name: str) -> Any:
        if name != "properties":
            raise AttributeError(name)
        self.properties = frames.decode_properties(self._encoded)
        self._encoded = b""  # they may be changed
        return self.properties

    def publish_on(self, channel: ConfirmChannel) -> int:
        """Send it on a channel, and return its tag; see `ConfirmChannel.publish`."""
        if not self._encoded:
            return super().publish_on(channel)
        method = frames.publish_method(channel.number, self.exchange, self.routing_key)
        sent = frames.join(channel.number, channel.connection.frame_max, method, self._encoded, self.body)
        return channel.send(sent, (self.task_id, self.exchange, self.routing_key))


class _Snapshot:
    """Shared inputs of an app's templates, apart from a call's options; each process has its own.

    Args:
        app: The app.

    Attributes:
        is_plain: Whether Celery's own code builds and sends the messages, and depends on nothing but the options.
        serializer: The default serializer.
        templates: The templates, by kind of call.
        seen: Kinds of calls that were seen once.
        filler: Fills in the templates.
    """

    def __init__(self, app: Celery) -> None:
        self._conf = app.conf
        self._changes, self._layers, self._process = dict(app.conf.changes), len(app.conf.maps), os.getpid()
        self.is_plain = _is_celerys(app) and is_alike(app) and not app.conf.task_always_eager
        self._parts = _replaceable(app)
        self.serializer: str = app.conf.task_serializer
        self.templates: dict[Any, Template] = {}
        self.seen: set[Any] = set()
        self.filler = TemplateFiller(app)

    def is_current(self, app: Celery) -> bool:
        """Return False after a fork, a change of the configuration, or the replacement of a part of Celery."""
        conf = app.conf
        return (
            conf is self._conf
            and conf.changes == self._changes
            and len(conf.maps) == self._layers
            and os.getpid() == self._process
            and _replaceable(app) == self._parts
        )


def _is_celerys(app: Any) -> bool:
    """Return whether Celery's own `send_task` and `as_task_v2` build the messages and our publisher sends them."""
    amqp = app.amqp
    return (
        isinstance(_send_task, FunctionType)
        and _send_task.__code__.co_filename == base.__file__
        and (Celery.send_task, type(amqp).as_task_v2) == (_send_task, _as_task_v2)
        and type(amqp.router) is Router
        and amqp.create_task_message == amqp.as_task_v2
        and getattr(amqp.as_task_v2, "__func__", None) is _as_task_v2
        and amqp.send_task_message == amqp.publisher.send
    )


def _replaceable(app: Any) -> tuple[Any, ...]:
    """Return the parts of Celery that a program may replace while it runs."""
    amqp = app.amqp
    own = vars(amqp).get
    parts = (own("send_task_message"), own("create_task_message"), own("as_task_v2"), own("router"))
    return (Celery.send_task, type(amqp).as_task_v2, *parts)


def _kind(options: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return what the calls of a kind have in common, None for a call that takes Celery's way."""
    kind: list[Any] = []
    for option, value in options.items():
        if option in _APART:
            continue
        if value is None:
            kind.append(option)
        elif option in _CELERYS_WAY or type(value) not in _PLAIN:
            return None
        else:
            kind.append((option, value, type(value)))
    return tuple(kind)


def _is_traced() -> bool:
    """Return whether a message would carry the caller's trace context."""
    if not trace_context.is_available():
        return False
    headers: dict[str, Any] = {}
    trace_context.inject(headers)
    return bool(headers)
