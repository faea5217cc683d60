"""The commands by name, for `broker-app` and the ``celery.commands`` entry points; each is imported when used."""

from __future__ import annotations

from broker_app.cli.lazy import LazyCommand

advise = LazyCommand(
    "broker_app.cli.advise:advise_command",
    "advise",
    "Watch the queues and advise on the number of slots: which are short or idle, and what to change.",
)
cancel = LazyCommand(
    "broker_app.cli.cancel:cancel",
    "cancel",
    "Cancel tasks, including scheduled ones, even if all workers restart.",
)
check = LazyCommand(
    "broker_app.cli.check:check",
    "check",
    "Check the settings and the task modules, and with --broker that the broker supports them.",
)
demo = LazyCommand(
    "broker_app.cli.demo:demo",
    "demo",
    "Run a flood of downloads on lopri next to interactive calls on default, and show both live.",
)
fleet = LazyCommand("broker_app.cli.fleet:fleet", "fleet", "Run this host's workers, through `celery multi`.")
metrics = LazyCommand(
    "broker_app.cli.metrics:metrics",
    "metrics",
    "Serve the metrics of producers, workers and the broker to Prometheus; one server per host.",
)
pause = LazyCommand(
    "broker_app.cli.pause:pause", "pause", "Stop consuming queues on all hosts, until they are resumed."
)
probe = LazyCommand(
    "broker_app.cli.probe:probe_group",
    "probe",
    "Report in one line whether a worker of this host is live or ready; exit code 0 or 1.",
)
queues = LazyCommand(
    "broker_app.cli.queues:queues", "queues", "Inspect the queues, and replay, move or remove their messages."
)
resume = LazyCommand("broker_app.cli.pause:resume", "resume", "Resume the consumption of paused queues.")
send = LazyCommand(
    "broker_app.cli.send:send", "send", "Call TASK with ARGS and print its id, or its result with --wait."
)
spool = LazyCommand("broker_app.cli.spool:spool", "spool", "Inspect the spool, and send its tasks.")
topology = LazyCommand(
    "broker_app.cli.topology:topology",
    "topology",
    "Compare the broker with the settings; create and migrate queues, prune delay lanes, print permissions.",
)
tune = LazyCommand(
    "broker_app.cli.tune:tune_command",
    "tune",
    "Find the best pool and number of slots (-c) for the tasks of QUEUE by measurement.",
)

VERBS = (advise, cancel, check, demo, fleet, metrics, pause, probe, queues, resume, send, spool, topology, tune)
"""Each command."""
