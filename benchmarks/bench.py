"""The context of a benchmark."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.broker import Broker

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Bench:
    """The surroundings of one benchmark.

    Attributes:
        broker: The broker.
        is_short: Whether to run with smaller numbers, as a quick check, and not for the documents.
        folder: For records and logs; deleted at the end of the run.
        say: Reports progress to the user.
    """

    broker: Broker
    is_short: bool
    folder: Path
    say: Callable[[str], None]

    def pick(self, full: _Value, short: _Value) -> _Value:
        """Return the first value for figures, the second for a quick look."""
        return short if self.is_short else full

    def virtual_host(self) -> AbstractContextManager[str]:
        """Return a block with the URL of a virtual host of its own: no contender meets another's queues."""
        return self.broker.management.virtual_host()

    @contextmanager
    def record(self) -> Iterator[Record]:
        """Hand out a fresh record of starts."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Record(Path(folder) / "starts")
