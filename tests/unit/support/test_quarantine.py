"""The quarantine of unreliable tests."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import quarantine

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]


def test_each_entry_is_a_test_with_a_reason() -> None:
    """An entry whose test was renamed or mended does not stay behind, and none is there without a reason."""
    for node_id, reason in quarantine.QUARANTINED.items():
        file, _, name = node_id.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, node_id
        assert reason


def test_all_parameters_of_a_test_are_in_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry stands for the test with each of its parameters, and for no other test."""
    monkeypatch.setitem(quarantine.QUARANTINED, "tests/test_a.py::test_b", "its port is taken now and then")
    assert quarantine.reason_for("tests/test_a.py::test_b[prefork]") == "its port is taken now and then"
    assert quarantine.reason_for("tests/test_a.py::test_bb") is None
    assert any("test_b: its port" in line for line in quarantine.headlines())
