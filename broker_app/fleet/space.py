"""The disk space that nodes need to start: written for real, and held while the nodes that they replace end.

A worker that cannot write its pid file ends without a word.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.fleet.state import unusable
from broker_app.settings.private_files import open_private

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from broker_app.fleet.state import FleetState

_NAME = ".space"
_KIB = 1024


def check_files(state: FleetState, stems: Collection[str]) -> None:
    """Refuse what keeps nodes from making their files: a disk without room for them, links in their places.

    Raises:
        FleetError: Files of that size and number cannot be written, or one is a symbolic link.
    """
    with held_space(state, stems):
        pass


@contextmanager
def held_space(state: FleetState, stems: Collection[str]) -> Iterator[None]:
    """Hold the room that the files of some nodes take, for the length of a block.

    Raises:
        FleetError: As `check_files`.
    """
    held: list[Path] = []
    try:
        for node, stem in enumerate(stems):
            state.check_files(stem)
            for folder, files, size in _needs(state):
                for number in range(files):
                    held.append(folder / f"{_NAME}-{node}-{number}")
                    _fill(held[-1], size)
        yield
    finally:
        for file in held:
            file.unlink(missing_ok=True)


def _needs(state: FleetState) -> tuple[tuple[Path, int, int], ...]:
    """Return folder, number and size in bytes of the files that one node writes while it starts."""
    metrics = state.base / "metrics" / state.app
    return (
        (state.run, 4, 4 * _KIB),  # pid file, sign of life, record, mark of stopping
        (state.log, 1, 16 * _KIB),
        (metrics if metrics.is_dir() else state.base, 2, 64 * _KIB),  # as a node, and as a producer
    )


def _fill(file: Path, size: int) -> None:
    """Write bytes that no file system can compress, to the disk: some say only then that it is full."""
    try:
        with open(file, "wb", opener=open_private) as stream:
            stream.write(os.urandom(size))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FleetError(unusable(file.parent, error)) from error
