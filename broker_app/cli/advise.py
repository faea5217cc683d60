"""`broker-app advise`: compare the number of slots with the load."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from broker_app.cli.command import Command, Number, pass_app
from broker_app.cli.output import echo
from broker_app.tuning.advice import Advice, LoadVerdict, Remedy, advise
from broker_app.tuning.live_workers import watch
from broker_app.tuning.readable import shown_duration, shown_number

if TYPE_CHECKING:
    from broker_app.app import BrokerApp


@click.command(
    "advise",
    cls=Command,
    epilog="\b\nExamples:\n  broker-app advise\n  broker-app advise lopri --seconds 60 --json",
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--seconds", type=Number(1, 3_600), default=10.0, show_default=True, help="How long to watch.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object, for scripts.")
@pass_app
def advise_command(app: BrokerApp, queues: tuple[str, ...], seconds: float, *, is_json: bool) -> None:
    """Watch the queues and advise on the number of slots: which are short or idle, and what to change.

    Read-only: it uses the workers' replies and the queues' message counts.
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
    words = [f"{shown_number(load.arrivals)} arrive a second", f"{shown_number(load.waiting)} wait"]
    if load.run_seconds is not None and load.wait_seconds is not None:
        words.append(f"run {shown_duration(load.run_seconds)}, wait {shown_duration(load.wait_seconds)}")
    words.append(f"{shown_number(load.busy_slots)} of {load.slots} slots busy on {load.nodes} nodes")
    if load.own_cores is not None:
        words.append(f"{load.own_cores:.2f} of this host's {load.cores} cores")
    return ", ".join(words)


def _sentence(advice: Advice) -> str:
    load, needed = advice.load, advice.slots_needed
    if advice.verdict is LoadVerdict.UNKNOWN:
        return "no task started while watching: watch longer, or at a busier time"
    queue, each = load.queue, advice.slots_per_node
    table, take_up = f"[queues.{queue}.fleet]", f"`broker-app fleet reload {queue}`"
    sentences = {
        Remedy.NONE: f"nothing to do: {needed} slots are needed, {load.slots} are there",
        Remedy.SLOTS: f"{needed} slots are needed, {load.slots} are there: concurrency = {each} in {table}, "
        f"then {take_up}",
        Remedy.NODE: f"{needed} slots are needed, and a node's process already uses its one core: "
        f"`broker-app fleet scale {queue} {load.nodes + 1}`, and nodes = {load.nodes + 1} in {table} to keep it; "
        f"a larger concurrency does not help",
        Remedy.HOST: f"{needed} slots are needed, and the queue's workers already use all of this host's CPU: "
        f"`broker-app fleet start {queue}` on another host",
        Remedy.FETCHING: f"slots are idle while messages wait, so more slots do not help: prefetch = 2 in "
        f"[queues.{queue}] if the tasks are short; otherwise the broker or the network is slow",
        Remedy.FEWER: f"{needed} slots are enough, {load.slots} are there: concurrency = {each} in {table} frees "
        f"the rest; leave it if bursts need them",
        Remedy.START: f"no worker consumes it: `broker-app fleet start {queue}`",
        Remedy.RESUME: f"it is paused: `broker-app resume {queue}`",
    }
    return sentences[advice.remedy] + _busy_host(advice) + _drained(advice)


def _busy_host(advice: Advice) -> str:
    """Return a note about other programs that keep this host busy, or an empty string."""
    load = advice.load
    if not load.is_host_busy or advice.remedy in {Remedy.HOST, Remedy.START, Remedy.RESUME}:
        return ""
    others = max(0.0, (load.host_busy_cores or 0.0) - (load.own_cores or 0.0))
    return (
        f"; this host is busy: others use {others:.1f} of its {load.cores} cores, which slows the tasks down too"
    )


def _drained(advice: Advice) -> str:
    if advice.drain_seconds is None or advice.verdict in {LoadVerdict.IDLE, LoadVerdict.PAUSED}:
        return ""
    if math.isinf(advice.drain_seconds):
        return "; the backlog will not shrink"
    return f"; the backlog is done in {shown_duration(advice.drain_seconds)}"


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
