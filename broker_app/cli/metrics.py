"""`broker-app metrics`: metrics, targets, rules and the dashboard for Prometheus and Grafana."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker_app.cli.command import Group, WholeNumber, pass_app
from broker_app.errors import MetricsError

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

_OUTPUT = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file, atomically."
)


@click.group(
    cls=Group,
    epilog="\b\nExamples:\n  broker-app metrics serve\n  broker-app metrics show\n"
    "  broker-app metrics targets --output /etc/prometheus/targets/broker-app.json\n"
    "  broker-app metrics rules --output /etc/prometheus/rules/broker-app.yml",
)
def metrics() -> None:
    """Serve the metrics of producers, workers and the broker to Prometheus; one server per host."""


@metrics.command(
    epilog="\b\nExamples:\n  broker-app metrics serve\n"
    "  broker-app -A shop metrics serve --host 0.0.0.0 --port 9480"
)
@click.option("--host", help="Address to listen on, instead of metrics.host.")
@click.option(
    "--port",
    type=WholeNumber(0, 65_535),
    help="Port to listen on, instead of metrics.port; 0 for any free port.",
)
@pass_app
def serve(app: BrokerApp, host: str | None, port: int | None) -> None:
    """Serve /metrics, /live, /ready, /targets, and the status page on /, until Ctrl-C or SIGTERM.

    If the broker is down, the server keeps running and reports broker_app_broker_up 0.
    """
    from broker_app.cli import version  # noqa: PLC0415 - circular import
    from broker_app.cli.logs import log_to_stderr  # noqa: PLC0415
    from broker_app.monitoring.collector import Collector  # noqa: PLC0415 - keeps --help fast
    from broker_app.monitoring.http_server import MetricsServer  # noqa: PLC0415
    from broker_app.monitoring.routes import routes  # noqa: PLC0415
    from broker_app.monitoring.status_page import StatusPage  # noqa: PLC0415

    log_to_stderr("%(levelname)s %(message)s")
    chosen = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = app.settings.metrics.model_copy(update=chosen)
    collector = Collector(app, version())
    server = MetricsServer(settings)
    settings = settings.model_copy(update={"port": server.port})
    page = StatusPage(app, collector, settings, version())
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.close).start())
    click.echo(f"metrics on {server.url}/metrics\nstatus page on {server.url}/")
    try:
        with page.sampling():
            server.serve(routes(app, collector, settings, page))
    finally:
        collector.close()


@metrics.command(epilog="\b\nExamples:\n  broker-app metrics show\n  broker-app metrics show | grep waited")
@pass_app
def show(app: BrokerApp) -> None:
    """Print the content of /metrics once, without a server."""
    from broker_app.cli import version  # noqa: PLC0415
    from broker_app.monitoring.collector import Collector  # noqa: PLC0415
    from broker_app.monitoring.exposition import encode  # noqa: PLC0415

    collector = Collector(app, version())
    try:
        click.echo(encode(collector.registry())[0], nl=False)
    finally:
        collector.close()


@metrics.command(
    epilog="\b\nExamples:\n  broker-app metrics targets\n"
    "  broker-app metrics targets --output /etc/prometheus/targets/broker-app.json\n"
    "  broker-app metrics targets worker1 worker2"
)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@_OUTPUT
@pass_app
def targets(app: BrokerApp, hosts: tuple[str, ...], output: Path | None) -> None:
    """Print the hosts' metrics servers for Prometheus' file-based service discovery.

    Without HOST: this host, and all hosts whose workers are connected to the broker now.
    """
    from broker_app.monitoring import targets as servers  # noqa: PLC0415
    from broker_app.monitoring.broker_reader import BrokerReader  # noqa: PLC0415

    settings = app.settings.metrics
    found = servers.targets(settings, hosts)
    if not hosts:
        found = servers.found_targets(settings, BrokerReader(app).read().hosts)
    _put(json.dumps(found, indent=1) + "\n", output)


@metrics.command(
    epilog="\b\nExamples:\n  broker-app metrics rules --output /etc/prometheus/rules/broker-app.yml\n"
    "  broker-app -A shop metrics rules --job shop --runbooks https://wiki.example.com/alerts\n"
    "  broker-app metrics rules | promtool check rules"
)
@_OUTPUT
@click.option("--job", help="Prometheus job name, instead of broker-app.")
@click.option(
    "--runbooks", help="URL of the runbooks, instead of docs/operations/alerts.md; #<alert> is appended."
)
@pass_app
def rules(app: BrokerApp, output: Path | None, job: str | None, runbooks: str | None) -> None:
    """Print Prometheus recording and alerting rules for the queues and objectives in the settings."""
    from broker_app.monitoring.prometheus.rule_file import JOB, RUNBOOKS, rules_text  # noqa: PLC0415

    _put(rules_text(app.settings, job or JOB, runbooks or RUNBOOKS), output)


@metrics.command(
    epilog="\b\nExamples:\n  broker-app metrics dashboard --output /var/lib/grafana/dashboards/broker-app.json"
)
@_OUTPUT
def dashboard(output: Path | None) -> None:
    """Print the Grafana dashboard, which does not depend on the settings."""
    from broker_app.monitoring.prometheus.dashboard import dashboard_text  # noqa: PLC0415

    _put(dashboard_text(), output)


def _put(text: str, output: Path | None) -> None:
    """Print a text, or write it to a file atomically."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        temporary = output.with_name(f".{output.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        raise MetricsError(f"{output}: expected a file that can be written, got: {error.strerror}") from error
