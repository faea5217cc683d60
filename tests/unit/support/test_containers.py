"""Containers that an interrupted run leaves: its processes are killed before their fixtures end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import containers

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DOCKER = """#!/bin/sh
echo "$@" >> "$0.calls"
[ "$1" = ps ] && echo one two
exit 0
"""


def test_the_containers_of_a_run_are_found_by_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each container is started with the run's id, and what is left of this run is removed, nothing else."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TEST_RUN", "this-run")
    containers.docker("run", "--detach", "image")
    containers.remove_left()
    run, ps, rm = (tmp_path / "docker.calls").read_text().splitlines()
    assert run == "run --label TEST_RUN=this-run --detach image"
    assert "label=TEST_RUN=this-run" in ps
    assert rm == "rm --force --volumes one two"
