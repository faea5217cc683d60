"""A group's result finds failed members with one query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.result import GroupResult

from broker_app import BrokerApp

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app(tmp_path: Path) -> BrokerApp:
    """Return an app with a SQLite store."""
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path / 'state'}'\n", encoding="utf-8")
    return BrokerApp("tests", config=file, set_as_current=False)


def test_a_failed_member(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is raised, from an inner group too; while none has failed, one query has told so."""
    inner = app.GroupResult("inner", [app.AsyncResult("last")])
    outer = app.GroupResult("outer", [*(app.AsyncResult(f"member-{one}") for one in range(5)), inner])
    queries: list[Any] = []
    query = app.backend._query

    def counted(*args: Any) -> Any:
        queries.append(args)
        return query(*args)

    monkeypatch.setattr(app.backend, "_query", counted)
    app.backend.mark_as_done("member-1", 5)
    outer.maybe_throw()
    assert len(queries) == 2
    app.backend.mark_as_failure("last", ValueError("no luck"))
    with pytest.raises(ValueError, match="no luck"):
        outer.maybe_throw()
    app.backend.mark_as_failure("member-3", KeyError("first"))
    with pytest.raises(KeyError, match="first"):
        outer.maybe_throw()


def test_a_groups_result_can_be_restored(app: BrokerApp) -> None:
    """As Celery's: it is an instance of its class, and saves and restores."""
    result = app.GroupResult("group", [app.AsyncResult("one")])
    assert isinstance(result, GroupResult)
    result.save()
    assert app.GroupResult.restore("group") == result
