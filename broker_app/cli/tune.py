"""`broker-app tune`: find the best pool and number of slots by measurement."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from broker_app.cli import exit_codes
from broker_app.cli.arguments import parse_argument, parse_keyword
from broker_app.cli.calls import CallRequest as CheckedCall
from broker_app.cli.calls import check_call
from broker_app.cli.command import Command, Number, WholeNumber, app_name, pass_app
from broker_app.cli.interruption import Interruption
from broker_app.cli.output import echo
from broker_app.cli.task_modules import load_tasks
from broker_app.cli.tune_output import as_record, print_result
from broker_app.errors import CallError, SettingsError
from broker_app.settings.fleet import PoolName
from broker_app.tuning import NodeLimits, SampleCall, SweepPlan, TaskLoad, TrialEffort, tune
from broker_app.tuning.chart import draw
from broker_app.tuning.live_load import WATCH_SECONDS, cpu_seconds, observe
from broker_app.tuning.load import parse_profile, parse_time
from broker_app.tuning.readable import shown_duration
from broker_app.tuning.settings_file import apply_fleet
from broker_app.tuning.worker import is_installed

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.tuning import TuningResult

POOLS = ("threads", "gevent", "prefork")
"""Default pools, if installed, behind asyncio where coroutines run; solo has one slot and nothing to tune."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@click.command(
    "tune",
    cls=Command,
    epilog="\b\nExamples:\n"
    "  broker-app tune lopri --profile wait=50ms,cpu=2ms,jitter=20%\n"
    "  broker-app -A shop tune lopri --task shop.tasks.fetch --args '[\"http://127.0.0.1:8000/\"]'\n"
    "  broker-app tune lopri --profile wait=50ms --pool threads --max-memory 512MiB --max-connections 40\n"
    "  broker-app tune lopri --from-metrics --pool threads\n"
    "  broker-app tune lopri --profile wait=50ms --max-latency 200ms --svg lopri.svg --apply",
)
@click.argument("queue")
@click.option("--task", metavar="NAME", help="A task of the app, really run with the arguments below.")
@click.option("--args", "args_json", metavar="JSON", help="Its positional arguments, as a JSON list.")
@click.option("-k", "keywords", metavar="NAME=VALUE", multiple=True, help="One keyword argument; repeatable.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="PROFILE",
    help="A simulated task: wait=50ms,cpu=2ms,jitter=20%. Repeatable: the tasks alternate.",
)
@click.option(
    "--from-metrics",
    "is_observed",
    is_flag=True,
    help="Simulate the tasks that the queue's workers on this host run now.",
)
@click.option(
    "--pool",
    "pools",
    multiple=True,
    type=click.Choice(get_args(PoolName)),
    help="Repeatable. Default: threads, gevent and prefork, if installed; asyncio too for a coroutine, or if the "
    "queue's fleet has it.",
)
@click.option(
    "--max-concurrency",
    "bound",
    type=WholeNumber(1, 10_000),
    help="Maximum number of slots. Default: 64, of asyncio 1,000.",
)
@click.option("--max-memory", metavar="SIZE", help="Memory limit of a node with all its processes, e.g. 512MiB.")
@click.option(
    "--max-connections",
    type=WholeNumber(min=1),
    help="Connection limit of the service that the tasks call; each slot uses one.",
)
@click.option(
    "--max-latency",
    metavar="TIME",
    help="Limit of the p95 from publishing to completion at 80 % load, e.g. 200ms.",
)
@click.option("--seconds", type=Number(0.5, 600), default=3.0, show_default=True, help="Duration of a round.")
@click.option("--minutes", type=Number(0.5, 1_440), help="Limit of the total duration. Default: none.")
@click.option(
    "--precision",
    type=Number(0.005, 0.5),
    default=0.05,
    show_default=True,
    help="Maximum relative uncertainty of the deciding figures.",
)
@click.option("--results/--no-results", default=None, help="Store results. Default: only in the embedded store.")
@click.option("--svg", "svg", type=click.Path(dir_okay=False, path_type=Path), help="File for the chart.")
@click.option("--apply", "is_applied", is_flag=True, help="Write the recommendation to the settings file.")
@click.option("--json", "is_json", is_flag=True, help="Print all figures as one JSON object.")
@pass_app
def tune_command(app: BrokerApp, queue: str, **options: Any) -> None:
    """Find the best pool and number of slots (-c) for the tasks of QUEUE by measurement.

    Real workers run the tasks on a private, temporary queue with the settings of QUEUE; QUEUE itself is not
    touched. Exit code 1 if the figures are too noisy for a recommendation.
    """
    _check_load(options)
    config = _config_file(app) if options["is_applied"] else None
    svg = options["svg"] or app.settings.state_dir / "tuning" / f"{queue}.svg"
    if options["svg"] and not svg.parent.is_dir():
        raise CallError(f"--svg: expected a file in an existing folder, got {svg}")
    name = app_name(click.get_current_context())
    plan = _plan(app, queue, name, options)
    with Interruption() as interruption:
        tuning = tune(app, plan, app_name=name, say=_say, on_leaving=interruption.hold)
        if interruption.has_come:
            raise KeyboardInterrupt
    svg.write_text(draw(tuning), encoding="utf-8")
    if options["is_json"]:
        echo(json.dumps(as_record(tuning, name)))
    else:
        print_result(tuning, name)
    _say(f"curves: {svg}")
    _finish(tuning, config)


def _finish(tuning: TuningResult, config: Path | None) -> None:
    """Apply the recommendation, or print why nothing is recommended and exit."""
    for refusal in tuning.recommendation.refusals:
        echo(f"broker-app: nothing is recommended: {refusal}", err=True)
    point = tuning.recommendation.point
    if point is None:
        sys.exit(exit_codes.FAILED)
    if config is not None:
        apply_fleet(config, tuning.plan.queue, point.pool, point.slots)
        _say(f"written: {config}: queues.{tuning.plan.queue}.fleet; now `broker-app fleet reload`")


def _check_load(options: dict[str, Any]) -> None:
    """Raise unless exactly one kind of load is given."""
    task, profiles, is_observed = options["task"], options["profiles"], options["is_observed"]
    if [bool(task), bool(profiles), is_observed].count(True) != 1:
        raise CallError(
            "expected one of --task NAME, --profile wait=50ms and --from-metrics; see broker-app tune --help"
        )
    if not task and (options["args_json"] or options["keywords"]):
        raise CallError("expected no arguments without a --task, got some; leave them out")


def _plan(app: BrokerApp, queue: str, name: str, options: dict[str, Any]) -> SweepPlan:
    queue = app.settings.routing_table().queue(queue).name
    is_embedded = app.settings.result_url is None
    results = is_embedded if options["results"] is None else options["results"]
    latency, memory = options["max_latency"], options["max_memory"]
    return SweepPlan(
        queue=queue,
        load=TaskLoad(
            _observed_calls(app, queue, name, keeps_results=results)
            if options["is_observed"]
            else _calls(app, options),
            keeps_results=results,
        ),
        pools=options["pools"] or _default_pools(app, queue, options["task"]),
        bound=options["bound"],
        limits=NodeLimits(
            memory_bytes=None if memory is None else _parse_size(memory),
            connections=options["max_connections"],
            latency_seconds=None if latency is None else parse_time(latency, "--max-latency"),
        ),
        effort=TrialEffort(round_seconds=options["seconds"], precision=options["precision"]),
        seconds=None if options["minutes"] is None else 60 * options["minutes"],
    )


def _default_pools(app: BrokerApp, queue: str, task: str | None) -> tuple[str, ...]:
    """Return the pools to measure: asyncio where the task is a coroutine, or where the queue's fleet has it."""
    is_async = task is not None and getattr(app.tasks[task], "is_async", False)
    has_asyncio = is_async or app.settings.queues[queue].fleet.pool == "asyncio"
    return tuple(filter(is_installed, ("asyncio", *POOLS) if has_asyncio else POOLS))


def _calls(app: BrokerApp, options: dict[str, Any]) -> tuple[SampleCall, ...]:
    task, profiles = options["task"], options["profiles"]
    if profiles:
        return tuple(map(parse_profile, profiles))
    args = parse_argument(options["args_json"] or "[]")
    if not isinstance(args, list):
        raise CallError(f"--args: expected a JSON list such as '[2, 2]', got {options['args_json']!r}")
    kwargs = dict(map(parse_keyword, options["keywords"]))
    check_call(CheckedCall(task, args, kwargs), load_tasks(app))
    return (SampleCall(task, tuple(args), kwargs),)


def _observed_calls(app: BrokerApp, queue: str, name: str, *, keeps_results: bool) -> tuple[SampleCall, ...]:
    """Return simulated calls that resemble the tasks of the live workers."""
    load_tasks(app)
    _say(f"watching the workers of {queue} for {WATCH_SECONDS:g} s")
    with Interruption() as interruption:
        observed = observe(app, queue)
        _say(str(observed))
        _say("measuring a worker's CPU usage at this rate for tasks that only wait")
        computing = cpu_seconds(
            app, observed, keeps_results=keeps_results, app_name=name, on_leaving=interruption.hold
        )
        if interruption.has_come:
            raise KeyboardInterrupt
    _say(f"of this, a task itself uses {shown_duration(computing)} of CPU")
    return observed.calls(computing)


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise CallError(f"--max-memory: expected a size such as 512MiB or 2GiB, got {text!r}")
    return int(float(match.group(1)) * _BYTES[match.group(2)])


def _config_file(app: BrokerApp) -> Path:
    file = app.config_file
    if file is None:
        raise SettingsError(["--apply: expected a settings file, got none; name one with BROKER_APP_CONFIG"])
    return file


def _say(text: str) -> None:
    echo(text, err=True)
