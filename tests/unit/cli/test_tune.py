"""`broker-app tune` and `advise` where no broker is needed: what is refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tuned_points import point, usage

from broker_app import BrokerApp
from broker_app.cli import main
from broker_app.cli.tune import POOLS, _default_pools
from broker_app.errors import TuningError
from broker_app.tuning import NodeLimits, SampleCall, SweepPlan, TaskLoad
from broker_app.tuning.sweep import _shortage
from broker_app.tuning.worker import check_pool

if TYPE_CHECKING:
    from pathlib import Path

PROFILE = ["--profile", "wait=5ms"]


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make an empty folder current, with a state folder next to it and an unreachable broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BROKER_APP_BROKER_URL", "amqp://127.0.0.1:1//")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["lopri"], 2, "expected one of --task NAME, --profile wait=50ms and --from-metrics"),
        (["lopri", "--task", "broker_app.tasks.add", *PROFILE], 2, "expected one of"),
        (["lopri", "--from-metrics", *PROFILE], 2, "expected one of"),
        (["lopri", "--from-metrics", "-k", "a=1"], 2, "expected no arguments"),
        (["lopri", "--from-metrics"], 4, "no AMQP broker answers there"),
        (["lopri", "--profile", "wait=5"], 2, "a time such as 50ms"),
        (["lopri", *PROFILE, "--args", "[1]"], 2, "expected no arguments"),
        (["lopri", "--task", "broker_app.tasks.ad"], 2, "did you mean 'broker_app.tasks.add'?"),
        (["lopri", "--task", "broker_app.tasks.add", "--args", "[1]"], 2, "broker_app.tasks.add(x, y)"),
        (["lopri", "--task", "broker_app.tasks.add", "--args", "2"], 2, "a JSON list"),
        (["loprio", *PROFILE], 2, "did you mean 'lopri'?"),
        (["lopri", *PROFILE, "--max-concurrency", "0"], 2, "from 1 to 10,000"),
        (["lopri", *PROFILE, "--max-concurrency", "20000"], 2, "from 1 to 10,000"),
        (["lopri", *PROFILE, "--max-memory", "many"], 2, "a size such as 512MiB"),
        (["lopri", *PROFILE, "--pool", "eventlet"], 2, "eventlet"),
        (["lopri", *PROFILE, "--svg", "none/a.svg"], 2, "an existing folder"),
        (["lopri", *PROFILE, "--apply"], 3, "expected a settings file, got none"),
        (["lopri", *PROFILE], 4, "no AMQP broker answers there"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """Each fault is reported before anything is started, with its exit code, and no file is made."""
    done = CliRunner().invoke(main, ["tune", *arguments])

    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*"))


def test_a_pool_that_is_not_installed_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is not installed is refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "gevent", None)

    with pytest.raises(TuningError, match=r"--pool gevent: it is not installed; pip install"):
        check_pool("gevent")


@pytest.mark.parametrize(
    ("task", "pool", "expected"),
    [
        (None, "threads", POOLS),
        ("shop.plain", "prefork", POOLS),
        ("shop.coroutine", "threads", ("asyncio", *POOLS)),
        (None, "asyncio", ("asyncio", *POOLS)),
    ],
)
def test_asyncio_is_measured_where_coroutines_run(
    tmp_path: Path, task: str | None, pool: str, expected: tuple[str, ...]
) -> None:
    """Without `--pool` it is one of the pools for a task that is a coroutine, and if the queue's fleet has it."""
    file = tmp_path / "settings.toml"
    file.write_text(f"[queues.default]\n[queues.lopri.fleet]\npool = '{pool}'\n", encoding="utf-8")
    app = BrokerApp("shop", config=file, set_as_current=False)

    @app.task(name="shop.plain")
    def plain() -> None:
        """Do nothing."""

    @app.task(name="shop.coroutine")
    async def coroutine() -> None:
        """Do nothing."""

    assert _default_pools(app, "lopri", task) == expected


@pytest.mark.parametrize(
    ("pool", "bounds"), [("threads", (64, 7, 5)), ("asyncio", (1_000, 7, 5)), ("solo", (1, 1, 1))]
)
def test_the_most_slots_depend_on_the_pool_and_the_limits(pool: str, bounds: tuple[int, ...]) -> None:
    """Ten thousand connections are no bound; a given number of slots, or fewer connections, are."""
    load = TaskLoad((SampleCall("shop.plain"),))
    plans = (
        SweepPlan("lopri", load, (pool,), limits=NodeLimits(connections=10_000)),
        SweepPlan("lopri", load, (pool,), 7),
        SweepPlan("lopri", load, (pool,), 7, limits=NodeLimits(connections=5)),
    )
    assert tuple(plan.bound_of(pool) for plan in plans) == bounds


def test_a_step_without_memory_is_not_taken() -> None:
    """The need of the next number of slots is estimated from the last two, and compared with what is free."""
    terabytes = {1: point(1, 20.0, used=usage(memory=2**20)), 2: point(2, 40.0, used=usage(memory=2 * 2**20))}
    small = {1: point(1, 20.0, used=usage(memory=10)), 2: point(2, 40.0, used=usage(memory=11))}

    assert "-c 4 would take about 4194304 MiB" in _shortage(terabytes, 4)
    assert _shortage(small, 4) == ""


def test_advise_refuses_an_unknown_queue() -> None:
    """`advise` refuses an unknown queue with exit code 2 and the nearest name."""
    done = CliRunner().invoke(main, ["advise", "loprio"])

    assert done.exit_code == 2
    assert "did you mean 'lopri'?" in done.stderr
