"""`broker-app spool`: tasks saved on this machine while the broker was unreachable."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from broker_app.cli import exit_codes
from broker_app.cli.command import Group, pass_app
from broker_app.cli.output import echo
from broker_app.publishing.spool import Flusher, SpoolFile

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.publishing.spool import FlushResult, SpoolStatus


@click.group(cls=Group, epilog="\b\nExamples:\n  broker-app spool status\n  broker-app spool flush --refused")
def spool() -> None:
    """Inspect the spool, and send its tasks."""


@spool.command(epilog="\b\nExamples:\n  broker-app spool status\n  broker-app spool status --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def status(app: BrokerApp, *, as_json: bool) -> None:
    """Show how many tasks wait, since when, and which were refused."""
    found = _store(app).status()
    echo(json.dumps(_record(found)) if as_json else _text(found))


@spool.command(epilog="\b\nExamples:\n  broker-app spool flush\n  broker-app spool flush --refused --json")
@click.option("--refused", is_flag=True, help="Retry refused tasks too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def flush(app: BrokerApp, *, refused: bool, as_json: bool) -> None:
    """Send the waiting tasks in order. Exit code 5 if some are left."""
    store = _store(app)
    if refused and store.file.exists():
        store.retry_refused()
    flushed = Flusher(app, store).flush(app.settings.publish.timeout_seconds)
    if flushed.is_busy:
        echo("broker-app: another process is sending the spool", err=True)
    if flushed.error is not None:
        echo(f"broker-app: {flushed.error}", err=True)
    echo(json.dumps(_flushed_record(flushed)) if as_json else _flushed_text(flushed))
    if flushed.left or flushed.refused:
        sys.exit(exit_codes.NOT_PUBLISHED)


def _store(app: BrokerApp) -> SpoolFile:
    settings = app.settings
    return SpoolFile(settings.state_dir, settings.publish.spool_max_messages, settings.publish.spool_max_bytes)


def _record(found: SpoolStatus) -> dict[str, object]:
    return {
        "file": str(found.file),
        "waiting": found.waiting,
        "refused": found.refused,
        "bytes": found.size_bytes,
        "oldest_seconds": None if found.oldest_seconds is None else round(found.oldest_seconds, 3),
        "reasons": found.reasons,
    }


def _text(found: SpoolStatus) -> str:
    oldest = "" if found.oldest_seconds is None else f", the first for {found.oldest_seconds:.0f} s"
    lines = [f"{found.file}: waiting {found.waiting}{oldest}, refused {found.refused}, {found.size_bytes} bytes"]
    lines += [f"  refused {count}: {reason}" for reason, count in found.reasons.items()]
    return "\n".join(lines)


def _flushed_record(flushed: FlushResult) -> dict[str, object]:
    return {"sent": flushed.sent, "refused": flushed.refused, "left": flushed.left, "busy": flushed.is_busy}


def _flushed_text(flushed: FlushResult) -> str:
    refused = f", refused {flushed.refused}" if flushed.refused else ""
    return f"sent {flushed.sent}{refused}{', some are left' if flushed.left else ''}"
