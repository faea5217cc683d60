"""compose/docker-compose.yml runs what the settings say."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

from documents import ROOT

from broker_app.settings import load_settings

COMPOSE = (ROOT / "compose" / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "compose" / "Dockerfile").read_text(encoding="utf-8")
CLUSTER = (ROOT / "compose" / "cluster.yml").read_text(encoding="utf-8")


def test_every_queue_has_a_worker_service_as_its_fleet_says() -> None:
    """Each queue of the shipped settings has one service; its pool and slots are those of the queue's fleet."""
    settings = load_settings(ROOT / "config" / "broker.toml")
    services = re.findall(r"^  worker-(\S+):\n(?:    .*\n)*?    command: (.+)$", COMPOSE, re.MULTILINE)

    assert sorted(name for name, _ in services) == sorted(settings.queues)
    for name, command in services:
        words = shlex.split(command)
        options = dict(pairwise(words))
        fleet = settings.queues[name].fleet
        assert options["-Q"] == name
        assert (options["-P"], options["-c"]) == (fleet.pool, str(fleet.concurrency))
        assert options["-n"] == f"{name}@%h"
        assert f'"--pidfile", "{options["--pidfile"]}"' in DOCKERFILE, "the probe looks elsewhere"


def test_ports_are_published_on_this_machine_only() -> None:
    """No service is reachable from another machine with this file as it is."""
    blocks = re.findall(r"^    ports:\n((?:      - .*\n)+)", COMPOSE + CLUSTER, re.MULTILINE)
    published = [line.strip(' -"') for block in blocks for line in block.splitlines()]

    assert len(published) > len(blocks) > 0
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_mounted_file_is_there() -> None:
    """Docker makes an empty folder of a missing path: each mounted path is a file or folder of ours."""
    mounted = re.findall(r"^      - (?:\$\{\w+:-)?(\.{1,2}/[\w./-]+)\}?:/", COMPOSE, re.MULTILINE)

    assert len(mounted) == len(re.findall(r":ro$", COMPOSE, re.MULTILINE)) > 0
    assert [path for path in mounted if not (ROOT / "compose" / path).exists()] == []


def test_example_environment_names_every_variable_that_must_be_set() -> None:
    """compose/example.env has every variable that the file requires."""
    needed = set(re.findall(r"\$\{(\w+):\?", COMPOSE + CLUSTER))
    example = (ROOT / "compose" / "example.env").read_text(encoding="utf-8")

    assert needed == set(re.findall(r"^(\w+)=\S", example, re.MULTILINE))


def test_each_service_is_the_user_that_it_needs() -> None:
    """Nobody but `deploy` has the administrator's password, and each part of ours connects as its own user."""
    shared, _, listed = COMPOSE.partition("\nservices:")
    services = dict(re.findall(r"^  ([\w-]+):.*\n((?:    .*\n|\n)+)", listed, re.MULTILINE))
    users = {name: re.findall(r"amqp://(\w+):\$\{(\w+)_PASSWORD", text) for name, text in services.items()}

    assert re.findall(r"amqp://(\w+):", shared) == ["worker"]
    assert {name for name, text in services.items() if "RABBITMQ_PASSWORD" in text} == {"rabbitmq", "deploy"}
    assert {name: found[0] for name, found in users.items() if found} == {
        "deploy": ("deploy", "DEPLOY"),
        "metrics": ("monitor", "MONITOR"),
        "cli": ("producer", "PRODUCER"),
    }
    assert "guest" not in re.sub(r"#.*", "", COMPOSE)


def test_prometheus_reads_what_its_rules_are_about() -> None:
    """The job of the metrics has the name that the rules ask for, and every target is a service of the file."""
    prometheus = (ROOT / "compose" / "prometheus.yml").read_text(encoding="utf-8")
    rules = (ROOT / "config" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    jobs = dict(
        re.findall(r"job_name: ([\w-]+).*\n    static_configs:\n      - targets: \[\"(\S+):\d+\"\]", prometheus)
    )

    assert set(re.findall(r'job=\\?"([\w-]+)\\?"', rules)) == {"broker-app"}
    assert jobs["broker-app"] == "metrics"
    for host in set(jobs.values()) - {"127.0.0.1"}:
        assert f"\n  {host}:\n" in COMPOSE


def test_the_cluster_finds_each_of_its_nodes() -> None:
    """Each node of compose/cluster.yml has its name, its volume and its place in the nodes' list."""
    conf = (ROOT / "compose" / "cluster" / "cluster.conf").read_text(encoding="utf-8")
    listed = re.findall(r"^cluster_formation\.classic_config\.nodes\.\d+ = rabbit@(\S+)$", conf, re.MULTILINE)
    services = re.findall(r"^  (rabbit-\d):\n    <<: \*node\n    hostname: (\S+)", CLUSTER, re.MULTILINE)

    assert [name for name, _ in services] == [hostname for _, hostname in services] == listed
    assert len(listed) == 3
    for name in listed:
        assert f"- {name}:/var/lib/rabbitmq" in CLUSTER
    assert "healthcheck:" in CLUSTER
    assert CLUSTER.count("./cluster/cluster.conf:/etc/rabbitmq/conf.d/20-cluster.conf:ro") == 3
