"""Disk space check: reserves the space that new nodes need, while the nodes that they replace shut down.

A worker that cannot write its pid file exits without a message.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.settings.private_files import open_private, unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from broker_app.fleet.state import FleetState

_NAME = ".space"
_KIB = 1024


def check_files(state: FleetState, stems: Collection[str]) -> None:
    """Check that nodes can create their files: enough disk space, and no symbolic links in their place.

    Raises:
        FleetError: The disk is too full, or one of the files is a symbolic link.
    """
    with held_space(state, stems):
        pass


@contextmanager
def held_space(state: FleetState, stems: Collection[str]) -> Iterator[None]:
    """Reserve the disk space for the files of some nodes during a block.

    Raises:
        FleetError: See `check_files`.
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
    """Return folder, count and size in bytes of the files that a starting node writes."""
    metrics = state.base / "metrics" / state.app
    return (
        (state.run, 4, 4 * _KIB),  # pid file, heartbeat, launch record, stopping marker
        (state.log, 1, 16 * _KIB),
        (metrics if metrics.is_dir() else state.base, 2, 64 * _KIB),  # one as a node, one as a producer
    )


def _fill(file: Path, size: int) -> None:
    """Write and sync incompressible bytes: some file systems report a full disk only then."""
    try:
        with open(file, "wb", opener=open_private) as stream:
            stream.write(os.urandom(size))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FleetError(unusable(file.parent, error)) from error
