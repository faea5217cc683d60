"""Fixtures of the tests in which things are killed and cut, and the table of what became of the messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ledger import Ledger, ledger
from mortal import MortalBroker, mortal_broker
from storm import SETTINGS, Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

_KEY_ACCOUNTS = pytest.StashKey[dict[str, Account]]()
_COLUMNS = ("messages", "faults", "lost", "unstored", "duplicates", "longest_gap_seconds")


@pytest.fixture(scope="session")
def stormy_broker(broker: FoundBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalBroker]:
    """Return a broker that the tests may kill, cut off and fill; each leaves it running."""
    with mortal_broker(broker, tmp_path_factory.mktemp("stormy")) as started:
        yield started


@pytest.fixture
def stormy_shop(tmp_path: Path, stormy_broker: MortalBroker) -> Iterator[Ledger]:
    """Return a project with names of its own on that broker."""
    with ledger(tmp_path, stormy_broker.amqp_url, SETTINGS.format(prefix=tmp_path.name)) as made:
        yield made


@pytest.fixture
def book(request: pytest.FixtureRequest) -> Callable[[Account], None]:
    """Return what puts an account into the table at the end of the run."""
    accounts = request.config.stash.setdefault(_KEY_ACCOUNTS, {})

    def enter(account: Account) -> None:
        accounts[request.node.name] = account

    return enter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    accounts = config.stash.get(_KEY_ACCOUNTS, {})
    if not accounts:
        return
    width = max(map(len, accounts))
    terminalreporter.write_line(f"{'':{width}}  " + "  ".join(_COLUMNS))
    for name, account in accounts.items():
        cells = (f"{getattr(account, column):>{len(column)}.4g}" for column in _COLUMNS)
        terminalreporter.write_line(f"{name:{width}}  " + "  ".join(cells))
