"""`broker-app advise`: whether the slots fit the work that comes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from broker_app.cli.command import Command, Number, pass_app
from broker_app.cli.output import echo
from broker_app.tuning.advice import Advice, Remedy, Verdict, advise
from broker_app.tuning.live import watch

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.command(
    "advise",
    cls=Command,
    epilog="\b\nExamples:\n  broker-app advise\n  broker-app advise lopri --seconds 60 --json",
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--seconds", type=Number(1, 3_600), default=10.0, show_default=True, help="How long is watched.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, for a script.")
@pass_app
def advise_command(app: BrokerApp, queues: tuple[str, ...], seconds: float, *, is_json: bool) -> None:
    """Watch the queues and say how many slots they need, which are short or idle, and what helps.

    It only looks: at what the workers answer and at how many messages wait.
    """
    watched = watch(app, queues, seconds)
    advices = [advise(load) for load in watched.loads]
    if is_json:
        echo(json.dumps({"queues": [_record(advice) for advice in advices], "missing": watched.missing}))
        return
    for advice in advices:
        echo(f"{advice.load.queue}: {advice.verdict}: {_figures(advice)}")
        echo(f"  {_sentence(advice)}")
    for missing in watched.missing:
        echo(f"not known: {missing}", err=True)


def _figures(advice: Advice) -> str:
    load = advice.load
    words = [f"{load.arrivals:.3g} arrive a second", f"{load.waiting:.3g} wait"]
    if load.run_seconds is not None and load.wait_seconds is not None:
        words.append(f"run {1000 * load.run_seconds:.3g} ms, wait {1000 * load.wait_seconds:.3g} ms")
    words.append(f"{load.busy_slots:.3g} of {load.slots} slots busy on {load.nodes} nodes")
    if load.cpu_cores is not None:
        words.append(f"{load.cpu_cores:.2f} cores")
    return ", ".join(words)


def _sentence(advice: Advice) -> str:
    load, needed = advice.load, advice.slots_needed
    if advice.verdict is Verdict.UNKNOWN:
        return "nothing began while it was watched: watch longer, or at a busier time"
    sentences = {
        Remedy.NONE: f"{needed} slots are needed, {load.slots} are there",
        Remedy.SLOTS: f"{needed} slots are needed, {load.slots} are there: -c {advice.slots_per_node} a node",
        Remedy.NODE: f"{needed} slots are needed; a node uses its one core: add a node, more slots do not help",
        Remedy.HOST: f"{needed} slots are needed; this host's processor is used up: add a host",
        Remedy.FETCHING: "slots stand idle while messages wait: the broker, the way to it, or the worker's own "
        "work; more slots do not help",
        Remedy.FEWER: f"{needed} slots are enough, {load.slots} are there",
        Remedy.START: "nobody consumes it: broker-app fleet start",
    }
    return sentences[advice.remedy] + _drained(advice)


def _drained(advice: Advice) -> str:
    if advice.drain_seconds is None or advice.verdict is Verdict.IDLE:
        return ""
    if math.isinf(advice.drain_seconds):
        return "; what waits will not get less"
    return f"; what waits is done in {advice.drain_seconds:.3g} s"


def _record(advice: Advice) -> dict[str, Any]:
    load, drain = advice.load, advice.drain_seconds
    return asdict(load) | {
        "arrivals": load.arrivals,
        "run_seconds": load.run_seconds,
        "wait_seconds": load.wait_seconds,
        "verdict": advice.verdict,
        "remedy": advice.remedy,
        "slots_needed": advice.slots_needed,
        "slots_per_node": advice.slots_per_node,
        "drain_seconds": None if drain is None or math.isinf(drain) else drain,
    }
