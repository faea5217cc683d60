"""The structure that docs/concepts/architecture.md describes: rooms, whose imports never form a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[2] / "broker_app"
ROOMS = sorted(folder for folder in PACKAGE.rglob("*") if (folder / "__init__.py").is_file())
MAX_LOOSE_MODULES = 5


def test_rooms_import_each_other_without_a_circle() -> None:
    """Rooms can be put into an order in which each imports only those before it; imports for annotations count."""
    graph = grimp.build_graph("broker_app")
    imports: dict[str, set[str]] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            importer, target = _room(module), _room(imported)
            if importer != target:
                imports.setdefault(importer, set()).add(target)
    assert "queues" in TopologicalSorter(imports).static_order()  # raises CycleError, which names the circle
    assert "queues" not in imports, "it is at the bottom"


def test_few_modules_are_loose() -> None:
    """`broker_app/` itself holds only public modules, and those below every room."""
    loose = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= MAX_LOOSE_MODULES, loose


@pytest.mark.parametrize("room", ROOMS, ids=lambda folder: folder.relative_to(PACKAGE).as_posix())
def test_each_room_says_what_it_is_for(room: Path) -> None:
    """A folder's `__init__.py` begins with a sentence about it."""
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "broker_app"
