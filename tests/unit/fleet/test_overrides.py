"""An operator's overrides on a host, and the record of the settings that its nodes were started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker_app.errors import FleetError
from broker_app.fleet.launch_record import LaunchRecord, record_of
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.overrides import FILE, Overrides
from broker_app.settings import FleetSettings, MetricsSettings, QueueSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


def record(settings: Settings) -> LaunchRecord:
    """Return what the nodes of the queue ``a`` would be started with."""
    return record_of(wanted_fleets(settings, ["a"])[0], settings, ["celery"])


def test_wishes_last(tmp_path: Path) -> None:
    """A written override is read again; without a file there are no overrides."""
    assert Overrides.read(tmp_path / "nowhere") == Overrides()
    wishes = Overrides().scale("a", 3).scale("b", 0).stop(["c", "d"]).start(["d"]).scale("b", None)
    wishes.write(tmp_path)
    assert Overrides.read(tmp_path) == Overrides({"a": 3}, frozenset({"c"}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scaled": {"a": "x"}, "stopped": []}'])
def test_a_file_that_is_not_whole_is_one_line(tmp_path: Path, text: str) -> None:
    """It is named, with what to do."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(FleetError, match=r"wishes.json: expected what operators asked for, .* delete it"):
        Overrides.read(tmp_path)


def test_a_scaled_queue_has_other_nodes() -> None:
    """The number of the settings is only the default."""
    settings = Settings(queues={"a": QueueSettings(), "b": QueueSettings()}, default_queue="a")
    fleets = wanted_fleets(settings, (), {"a": 2, "b": 0})
    assert [[node.stem for node in fleet.nodes] for fleet in fleets] == [["a", "a+2"], []]


@pytest.mark.parametrize(
    "changed",
    [
        {"queues": {"a": QueueSettings(prefetch=2)}},
        {"queues": {"a": QueueSettings(fleet=FleetSettings(concurrency=9))}},
        {"queues": {"a": QueueSettings(fleet=FleetSettings(environment={"A": "b"}))}},
        {"queues": {"a": QueueSettings(fleet=FleetSettings(drain_seconds=9))}},
        {"broker_url": "amqp://guest:other@127.0.0.1//"},
        {"heartbeat_seconds": 20},
        {"metrics": MetricsSettings(enabled=False)},
    ],
    ids=str,
)
def test_a_change_that_workers_feel_is_a_change_of_the_record(changed: dict[str, object]) -> None:
    """Also where it is on no command line."""
    before: dict[str, Any] = {"queues": {"a": QueueSettings()}, "default_queue": "a"}
    assert record(Settings(**before)) != record(Settings(**before | changed))


def test_a_change_elsewhere_is_none_of_the_record() -> None:
    """Another queue, another number of nodes, another port of the metrics."""
    before = Settings(queues={"a": QueueSettings()}, default_queue="a")
    queues = {"a": QueueSettings(fleet=FleetSettings(nodes=3)), "b": QueueSettings()}
    after = Settings(queues=queues, default_queue="a", metrics=MetricsSettings(port=1))
    assert record(before) == record(after)


def test_a_record_lasts_and_holds_no_secret(tmp_path: Path) -> None:
    """It is read as it was written; one that is half written counts as none."""
    made = record(Settings(broker_url="amqp://u:s3cret@h//", default_queue="a", queues={"a": QueueSettings()}))
    file = tmp_path / "a.json"
    made.write(file)
    assert LaunchRecord.read(file) == made
    assert "s3cret" not in file.read_text()
    file.write_text(file.read_text()[:9])
    assert LaunchRecord.read(file) is None
