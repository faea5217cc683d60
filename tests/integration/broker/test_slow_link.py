"""Publishing over a link with a long round trip: what must be there first is declared in few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth
from proxy import TcpProxy

from broker_app import publish_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker

LATENCY_SECONDS = 0.03
"""Half a round trip; more than it takes to write what is sent at once."""

HANDSHAKE = 3
"""Round trips of a new AMQP connection: its start, its tuning, and its virtual host."""


@pytest.fixture
def link(fresh_vhost_url: str) -> Iterator[TcpProxy]:
    """A slow link to the broker."""
    with TcpProxy.to(fresh_vhost_url, LATENCY_SECONDS) as proxy:
        yield proxy


@pytest.mark.version
def test_a_new_lane_costs_few_round_trips(make_app: AppMaker, link: TcpProxy) -> None:
    """Look for the lanes, ask for the prune's lock, declare, publish: one each, however many lanes there are."""
    app = make_app(url=link.url(make_app.url))
    app.send_task("shop.add", queue="lopri", countdown=3_600)
    assert link.round_trips <= HANDSHAKE + 6
    link.round_trips = 0
    app.send_task("shop.add", queue="lopri", countdown=93_784)  # a day, two hours, three minutes and four seconds
    assert link.round_trips <= 4
    link.round_trips = 0
    app.send_task("shop.add", queue="lopri", countdown=93_784)
    assert link.round_trips == 1
    assert depth(make_app(), "delay.1d") == 2


def test_a_task_for_a_queue_that_is_not_there_costs_few_round_trips(make_app: AppMaker, link: TcpProxy) -> None:
    """All that the queue needs is declared in one."""
    app = make_app(url=link.url(make_app.url))
    app.send_task("shop.add", queue="lopri")
    assert link.round_trips <= HANDSHAKE + 7
    assert depth(make_app(), "lopri") == 1


def test_many_new_countdowns_cost_few_round_trips(make_app: AppMaker, link: TcpProxy) -> None:
    """The lanes of a batch are declared together: 40 new lanes do not take 40 times as long as one."""
    app = make_app(url=link.url(make_app.url))
    app.send_task("shop.add", queue="lopri")
    link.round_trips = 0
    many = (app.signature("shop.add", (n, n), queue="lopri", countdown=3_600 * n) for n in range(1, 21))
    more = (app.signature("shop.add", (n, n), queue="lopri", countdown=7_200 + 60 * n) for n in range(1, 21))
    totals = publish_many((one for pair in zip(many, more, strict=True) for one in pair), app=app).run()
    assert (totals.accepted, totals.refused, totals.unknown) == (40, 0, 0)
    assert link.round_trips <= 30
    assert (depth(make_app(), "delay.20h"), depth(make_app(), "delay.2h")) == (1, 21)
