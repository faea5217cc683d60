"""Of a thousand generated messages each is run or becomes a dead letter, and the worker lives."""

from __future__ import annotations

import json
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from apps import depth
from brokers import Management, vhost_of
from configured import configured_client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from noting import FILE
from waiting import wait_until
from workers import RunningWorker, running_worker

from broker_app.broker.access import connect
from broker_app.wire import frames
from broker_app.wire.field_tables import Encoded, accept_undecodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from broker_app import BrokerApp

MESSAGES = 1_000
SECONDS = 90.0
TASK = "noting.anything"

DEEP = b"V"
for _ in range(300):
    DEEP = b"A" + struct.pack(">I", len(DEEP)) + DEEP
UNDECODABLE = st.sampled_from(
    [
        Encoded(b"T" + struct.pack(">Q", 1_790_000_000_000), "a timestamp in milliseconds"),
        Encoded(b"T" + b"\xff" * 8, "the largest timestamp"),
        Encoded(b"F" + struct.pack(">I", 11) + b"\x01aT" + b"\xff" * 8, "a timestamp in a table"),
        Encoded(DEEP, "an array nested three hundred deep"),
        Encoded(b"S" + struct.pack(">I", 2) + b"\xff\xfe", "a text that is not UTF-8"),
        Encoded(b"x" + struct.pack(">I", 2) + b"\xff\xfe", "bytes"),
    ]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)  # RabbitMQ refuses the others
ATOMS = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=8) | FLOATS
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
NAMES = """task id lang root_id parent_id group group_index eta expires retries timelimit shadow argsrepr
kwargsrepr origin ignore_result replaced_task_nesting stamped_headers stamps compression callbacks errbacks chain
chord headers properties delivery_info args kwargs get update _protected traceparent x-death
broker_app_published_at broker_app_delay_seconds broker_app_maybe_twice broker_app_dead_reason"""
ODD_HEADERS = st.dictionaries(
    st.sampled_from(NAMES.split()) | st.text(max_size=10), VALUES | UNDECODABLE, max_size=3
)
ARGUMENTS = st.lists(VALUES, max_size=2)
EMBED = st.dictionaries(st.sampled_from(["callbacks", "errbacks", "chain", "chord", "other"]), VALUES, max_size=2)
SHAPED = st.tuples(ARGUMENTS, st.dictionaries(st.text(max_size=5), VALUES, max_size=2), EMBED | st.none())
NEARLY = st.lists(VALUES, max_size=4) | st.tuples(VALUES, VALUES, VALUES) | VALUES
BODIES = (SHAPED | NEARLY).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=30)
TYPES = st.sampled_from(["application/json"] * 6 + ["text/plain", "", Encoded(b"\xff\xfe", "no UTF-8")])
ENCODINGS = st.sampled_from(
    ["utf-8"] * 6 + ["binary", "utf-16", "rot13", "none", Encoded(b"\xff\xfe", "no UTF-8")]
)

pytestmark = [pytest.mark.version, pytest.mark.timeout(300)]


@pytest.fixture(params=["prefork", "threads", "gevent"])
def worker(request: pytest.FixtureRequest, fresh_vhost_url: str, tmp_path: Path) -> Iterator[RunningWorker]:
    """Run a worker of two slots that notes what it runs."""
    configured_client(tmp_path, fresh_vhost_url, "[queues.default]\n")
    options = ("-I", "noting", "-P", request.param, "-c", "2")
    with running_worker(tmp_path, fresh_vhost_url, *options, **{FILE: str(tmp_path / "noted")}) as running:
        yield running


def is_fair(name: str, value: object) -> bool:
    """Return whether a header leaves a message no third way: to wait, to expire, or to be over its limit."""
    if name in {"eta", "expires"}:
        return not isinstance(value, str)
    return name != "timelimit" or not isinstance(value, list) or len(value) != 2


@pytest.fixture(scope="module")
def messages() -> dict[str, tuple[dict[str, Any], bytes]]:
    """Return generated messages, properties and bodies, by their correlation ids."""
    made: dict[str, tuple[dict[str, Any], bytes]] = {}

    @settings(
        max_examples=MESSAGES, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
    )
    @given(body=BODIES, odd=ODD_HEADERS, content_type=TYPES, encoding=ENCODINGS)
    def make(body: bytes, odd: dict[str, Any], content_type: Any, encoding: Any) -> None:
        number = str(len(made))
        headers = {"task": TASK, "id": f"id-{number}", "lang": "py"}
        headers |= {name: value for name, value in odd.items() if is_fair(name, value)}
        facts = {"content_type": content_type, "content_encoding": encoding, "correlation_id": number}
        made[number] = (facts | {"application_headers": headers, "delivery_mode": 2}, body)

    make()
    return made


def publish(app: BrokerApp, messages: Iterable[tuple[dict[str, Any], bytes]]) -> None:
    """Publish messages as their properties are, which no client library would."""
    with connect(app) as connection:
        channel, place = connection.channel(), ("", "default")
        for message in messages:
            sent = frames.encode(channel.channel_id, connection.frame_max, place, *message)
            connection.transport.write(sent)
        channel.queue_declare("default", passive=True)  # the broker has read what came before


def dead_letters(app: BrokerApp) -> Counter[str]:
    """Take the dead letters, and return how often each correlation id is among them."""
    accept_undecodable()
    found: Counter[str] = Counter()
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        while (message := channel.basic_get("default.dead", no_ack=True)) is not None:
            found[message.properties["correlation_id"]] += 1
    return found


def test_each_is_run_or_dead(
    worker: RunningWorker,
    messages: dict[str, tuple[dict[str, Any], bytes]],
    fresh_vhost_url: str,
    tmp_path: Path,
    management: Management,
) -> None:
    """Whatever is in its body and its headers: none is lost, none is held, none is both."""
    app = configured_client(tmp_path, fresh_vhost_url, "[queues.default]\n")
    publish(app, messages.values())
    noted = tmp_path / "noted"

    def runs() -> Counter[str]:
        return Counter(noted.read_text().split() if noted.exists() else [])

    def are_settled() -> bool:
        return sum(runs().values()) + (depth(app, "default.dead") or 0) >= len(messages)

    try:
        wait_until(are_settled, SECONDS, f"{len(messages)} messages to be settled")
    finally:
        ends = runs() + dead_letters(app)
        wrong = [(ends[number], message) for number, message in messages.items() if ends[number] != 1]
        assert not wrong, f"{Counter(count for count, _ in wrong)} of {len(messages)}: {repr(wrong)[:5_000]}"
    assert ends.keys() == messages.keys()
    assert len(messages) >= MESSAGES
    assert 0.03 < sum(runs().values()) / len(messages) < 0.9
    assert worker.process.poll() is None
    vhost = vhost_of(fresh_vhost_url)
    wait_until(lambda: not management.queue(vhost, "default").get("messages", 1), SECONDS, "nothing to be held")
    assert app.send_task("workload.add", (1, 2)).get(timeout=SECONDS, interval=0.05) == 3
