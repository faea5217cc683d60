"""The command: ``python -m benchmarks [NAME…]``."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from benchmarks.bench import Bench
from benchmarks.broker import Choice, open_broker
from benchmarks.machine import machine_facts
from benchmarks.report import as_values, markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.broker import Broker
    from benchmarks.report import Report

NAMES = (
    "publishing",
    "publish_many",
    "awaitable_calls",
    "replay",
    "recovery",
    "isolation",
    "delay_publishing",
    "delay_apply_async",
    "lateness",
    "burst",
    "behind_scheduled",
    "worker_memory",
    "broker_cost",
    "codecs",
    "lane_cost",
    "metrics_cost",
    "metrics_throughput",
    "metrics_scrape",
    "metrics_memory",
    "metrics_exact",
    "interleaved",
    "draining",
    "io_bound",
    "coroutines",
    "results",
    "chords",
    "tuning",
    "curves",
    "startup",
    "first_task",
    "rolling_restart",
)
"""Each is a module of this package with a function ``run(bench) -> Report``; run in this order."""

LIMIT_SECONDS = 3_600
"""Bound of one benchmark, should all of its own bounds fail."""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nNames:\n  "
    + "\n  ".join(NAMES)
    + "\n\n\b\nExamples:\n  python -m benchmarks publishing lateness --short"
    "\n  python -m benchmarks --image rabbitmq:4-management --image rabbitmq:3.10-management > results.md",
)
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option("--broker", "url", help="AMQP URL of a running broker; its user must be an administrator.")
@click.option("--management", "management_url", help="Its management API; default: port 15672 of the same host.")
@click.option("--image", "images", multiple=True, help="Start the broker from this image; may be repeated.")
@click.option("--short", "is_short", is_flag=True, help="A quick look with small numbers; not for the documents.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="All values, for a script."
)
def main(
    names: tuple[str, ...],
    url: str | None,
    management_url: str | None,
    images: tuple[str, ...],
    *,
    is_short: bool,
    json_file: Path | None,
) -> None:
    """Measure side by side with the alternatives, all or some; Markdown to stdout, progress to stderr."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _time_out)
    facts = machine_facts()
    print("## Machine and versions\n")
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n", flush=True)
    values: dict[str, Any] = {"machine": facts, "is_short": is_short, "brokers": {}}
    for choice in [Choice(url, management_url, image) for image in images or (None,)]:
        with _broker(choice) as broker:
            print(f"## RabbitMQ {broker.version}\n\nThe broker is {broker.origin}.\n", flush=True)
            values["brokers"][broker.version] = _run_all(names or NAMES, broker, is_short=is_short)
    if json_file:
        json_file.write_text(json.dumps(values, indent=1), encoding="utf-8")
    has_failed = any(None in reports.values() for reports in values["brokers"].values())
    sys.exit(1 if has_failed else 0)


@contextmanager
def _broker(choice: Choice) -> Iterator[Broker]:
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as folder,
        open_broker(choice, Path(folder), _say) as broker,
    ):
        yield broker


def _run_all(names: tuple[str, ...], broker: Broker, *, is_short: bool) -> dict[str, Any]:
    """Run the benchmarks, printing each report when it is there; None for one whose premise did not hold."""
    reports: dict[str, Any] = {}
    for name in names:
        reports[name] = None
        started = time.monotonic()
        try:
            report = _run_one(name, broker, is_short=is_short)
            reports[name] = as_values(report)
            print(markdown(name, report), flush=True)
        except Exception:  # noqa: BLE001 - one that fails must not cost the figures of the others
            traceback.print_exc()
            print(f"### `{name}`: failed, see stderr\n", flush=True)
        _say(f"{name}: {time.monotonic() - started:.0f} s")
    return reports


def _run_one(name: str, broker: Broker, *, is_short: bool) -> Report:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        signal.alarm(LIMIT_SECONDS)
        stack.callback(signal.alarm, 0)
        report: Report = import_module(f"benchmarks.{name}").run(
            Bench(broker, is_short, Path(folder), lambda text: _say(f"{name}: {text}"))
        )
        return report


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _time_out(*_: Any) -> NoReturn:
    raise TimeoutError(f"expected an end within {LIMIT_SECONDS} s")


if __name__ == "__main__":
    main()
