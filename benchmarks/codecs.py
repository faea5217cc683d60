"""Codecs: processor time for each message of the hand-written ones, side by side with py-amqp's."""

from __future__ import annotations

import select
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import amqp
from kombu.asynchronous import Hub
from kombu.connection import Connection
from kombu.message import Message

from benchmarks.figures import Spread, ratio, shown, shown_spread
from benchmarks.report import Report
from benchmarks.rounds import alternate
from broker_app.publishing.bulk.template import Template, float_value, text_value
from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import NO_DELAY, QueueSpec
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire import frames
from broker_app.wire.frame_reader import FrameReader
from broker_app.worker.acknowledger import Acknowledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench import Bench

QUEUE = "codecs"
BATCH = 8
"""Messages acknowledged at once: about what a busy worker finishes between two turns of its event loop."""

_BODY = b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
_SECONDS = 60.0


def run(bench: Bench) -> Report:
    """Let each codec and py-amqp's own code treat the same messages in turn, on one connection to the broker."""
    count, rounds = bench.pick((2_000, 9), (1_000, 3))
    with bench.virtual_host() as url, closing(Connection(url)) as connection:
        link: amqp.Connection = connection.connection
        connection.default_channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        measures: dict[str, Callable[[], float]] = {
            "publish, py-amqp": lambda: _publish(link, count, _with_amqp),
            "publish, frames": lambda: _publish(link, count, _with_frames),
            "publish, template": lambda: _publish(link, count, _with_template(link)),
            "read, py-amqp": lambda: _read(link, count, lambda: link.drain_events(timeout=_SECONDS)),
            "read, frame reader": lambda: _read(link, count, _frame_reader(link)),
            "acknowledge, py-amqp": lambda: _acknowledge(link, count, _one_by_one),
            "acknowledge, acknowledger": lambda: _acknowledge(link, count, _in_batches),
        }
        for measure in measures.values():
            measure()  # warm
        costs = alternate(measures, rounds, bench.say)
    return Report(
        title=f"processor time for each of {count:,} messages, {rounds} rounds",
        columns=("step", "µs a message", "py-amqp's own takes"),
        rows=tuple(
            (name, shown_spread(Spread.of(values)), f"{shown(ratio(costs[_own(name)], values).median)}x")
            for name, values in costs.items()
        ),
        notes=(
            "User and system time of this process, system calls included, not counting the making of the message "
            f"(`add.delay(2, 2)`) in Celery. The acknowledger gets {BATCH} finished messages at once."
        ),
        samples={f"{name}: µs a message": values for name, values in costs.items()},
    )


def _own(name: str) -> str:
    return f"{name.partition(',')[0]}, py-amqp"


def _headers(task_id: str) -> dict[str, Any]:
    """Return the headers of a task as Celery and broker-app write them."""
    return {
        "lang": "py",
        "task": "broker_app.tasks.add",
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "(2, 2)",
        "kwargsrepr": "{}",
        "origin": "gen1234@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        PUBLISHED_AT_HEADER: time.time(),
        DELAY_HEADER: 0.0,
    }


def _properties(task_id: str) -> dict[str, Any]:
    return {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": _headers(task_id),
        "delivery_mode": 2,
        "priority": 0,
        "correlation_id": task_id,
        "reply_to": "9c3f5c0e-7c3f-3b0e-9c3f-5c0e7c3f3b0e",
    }


def _with_amqp(channel: Any, task_id: str) -> None:
    channel.basic_publish(amqp.Message(_BODY, **_properties(task_id)), "", QUEUE, mandatory=True)


def _with_frames(channel: Any, task_id: str) -> None:
    link = channel.connection
    link.transport.write(
        frames.encode(channel.channel_id, link.frame_max, ("", QUEUE), _properties(task_id), _BODY)
    )


def _with_template(link: amqp.Connection) -> Callable[[Any, str], None]:
    spec, sample = QueueSpec(QUEUE), _properties("0")
    outgoing = OutgoingMessage("broker_app.tasks.add", "0", "", QUEUE, _BODY, sample, spec=spec, delay=NO_DELAY)
    template = Template(outgoing, spec, None)
    empty, frame_max = text_value(None), link.frame_max

    def publish(channel: Any, task_id: str) -> None:
        own = {
            "id": text_value(task_id),
            "eta": empty,
            "expires": empty,
            "argsrepr": text_value("(2, 2)"),
            "kwargsrepr": text_value("{}"),
            PUBLISHED_AT_HEADER: float_value(time.time()),
            DELAY_HEADER: float_value(0.0),
        }
        method = frames.publish_method(channel.channel_id, "", QUEUE)
        properties = template.properties(own, task_id)
        link.transport.write(frames.join(channel.channel_id, frame_max, method, properties, _BODY))

    return publish


def _publish(link: amqp.Connection, count: int, publish: Callable[[Any, str], None]) -> float:
    ids = [str(uuid4()) for _ in range(count)]
    with closing(link.channel()) as channel:
        began = time.process_time()
        for task_id in ids:
            publish(channel, task_id)
        spent = time.process_time() - began
        channel.queue_purge(QUEUE)
    return spent / count * 1e6


@contextmanager
def _filled(link: amqp.Connection, count: int) -> Iterator[Any]:
    """Fill the queue, and hand out a channel to consume it with."""
    with closing(link.channel()) as channel:
        for _ in range(count):
            _with_amqp(channel, str(uuid4()))
        while channel.queue_declare(QUEUE, passive=True).message_count < count:
            time.sleep(0.01)
        yield channel


def _frame_reader(link: amqp.Connection) -> Callable[[], None]:
    reader = FrameReader(link, Hub())

    def read() -> None:
        select.select([link.sock], [], [], _SECONDS)
        reader.read()

    return read


def _read(link: amqp.Connection, count: int, read: Callable[[], None]) -> float:
    got: list[amqp.Message] = []
    with _filled(link, count) as channel:
        began = time.process_time()
        channel.basic_consume(QUEUE, callback=got.append, no_ack=True)
        while len(got) < count:
            read()
        return (time.process_time() - began) / count * 1e6


def _acknowledge(link: amqp.Connection, count: int, acknowledge: Callable[[list[Message]], None]) -> float:
    got: list[Message] = []
    with _filled(link, count) as channel:
        channel.basic_consume(QUEUE, callback=lambda message: got.append(_kombu(channel, message)))
        while len(got) < count:
            link.drain_events(timeout=_SECONDS)
        began = time.process_time()
        acknowledge(got)
        return (time.process_time() - began) / count * 1e6


def _kombu(channel: Any, message: amqp.Message) -> Message:
    return Message(channel=channel, delivery_tag=message.delivery_info["delivery_tag"])


def _one_by_one(messages: list[Message]) -> None:
    for message in messages:
        message.ack()


def _in_batches(messages: list[Message]) -> None:
    acknowledger = Acknowledger((OSError,), is_alone=True)
    for message in messages:
        acknowledger.hold(message)
    for first in range(0, len(messages), BATCH):
        acknowledger.acknowledge(messages[first : first + BATCH])
