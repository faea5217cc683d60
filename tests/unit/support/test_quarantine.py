"""The quarantine of unreliable tests."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import quarantine

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]


def test_each_entry_is_a_test_or_a_folder_with_a_reason() -> None:
    """An entry whose test was renamed or mended does not stay behind, and none is there without a reason."""
    for node_id, reason in quarantine.QUARANTINED.items():
        file, _, name = node_id.partition("::")
        if not name:
            assert (ROOT / file).is_dir(), node_id
            continue
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, node_id
        assert reason


def test_all_parameters_of_a_test_are_in_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry stands for the test with each of its parameters, and for no other test."""
    monkeypatch.setitem(quarantine.QUARANTINED, "tests/test_a.py::test_b", "its port is taken now and then")
    assert quarantine.reason_for("tests/test_a.py::test_b[prefork]") == "its port is taken now and then"
    assert quarantine.reason_for("tests/test_a.py::test_bb") is None
    assert any("test_b: its port" in line for line in quarantine.headlines())


def test_all_tests_of_a_folder_are_in_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry without a test stands for the folder and what is below it."""
    monkeypatch.setitem(quarantine.QUARANTINED, "tests/ports", "its ports are taken now and then")
    assert quarantine.reason_for("tests/ports/low/test_a.py::test_b") == "its ports are taken now and then"
    assert quarantine.reason_for("tests/portsmouth/test_a.py::test_b") is None
