"""Connections of commands: a broker that goes silent or away ends them with one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from proxy import TcpProxy

from broker_app.broker import access
from broker_app.broker.access import connect
from broker_app.broker.declare import queue_exists
from broker_app.errors import BrokerError

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp


def ask(app: BrokerApp, proxy: TcpProxy, fault: str) -> None:
    """Let the fault happen to a connection that asks for queues, again and again."""
    with connect(app) as connection:
        getattr(proxy, fault)()
        while True:
            queue_exists(connection, "any")


@pytest.mark.parametrize(("fault", "reason"), [("freeze", "timed out"), ("cut", "")], ids=["silent", "gone"])
def test_a_command_ends_with_its_broker(
    make_app: AppMaker, fresh_vhost_url: str, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    """It does not wait for ever, nor show a traceback of the library below: it says where, and what to do."""
    monkeypatch.setattr(access, "ANSWER_SECONDS", 3.0)
    with TcpProxy.to(fresh_vhost_url) as proxy:
        app = make_app(url=proxy.url(fresh_vhost_url))
        with pytest.raises(BrokerError, match=rf"@127\.0\.0\.1:\d+.*lost \(.*{reason}.*\); run it again"):
            ask(app, proxy, fault)


def test_errors_of_the_block_are_its_own(make_app: AppMaker) -> None:
    """A file that cannot be written, for example, is no lost connection."""
    with pytest.raises(FileNotFoundError), connect(make_app()):
        raise FileNotFoundError(2, "no such file")
