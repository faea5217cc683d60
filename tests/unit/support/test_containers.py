"""Containers and processes that an interrupted run leaves: its own are killed before their fixtures end."""

from __future__ import annotations

import signal
import subprocess
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


def test_what_a_run_left_is_found_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each container and process is started with the run's id, and what is left of this run ends, nothing else."""
    run_id = str(tmp_path)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TEST_RUN", run_id)
    containers.docker("run", "--detach", "image")
    with subprocess.Popen(["sleep", "600"]) as left:  # noqa: S607 - from the PATH
        containers.remove_left()
        assert left.wait(60) == -signal.SIGKILL
    run, ps, rm = (tmp_path / "docker.calls").read_text().splitlines()
    assert run == f"run --label TEST_RUN={run_id} --detach image"
    assert f"label=TEST_RUN={run_id}" in ps
    assert rm == "rm --force --volumes one two"
