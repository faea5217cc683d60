"""docs/quickstart.md, followed to the letter: the kept demo, and a project of one's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demos import looked_after
from documents import ROOT, Step, blocks, shape, steps
from fleets import SCRIPTS, Host, host
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(480)

DOCUMENT = ROOT / "docs" / "quickstart.md"
SESSION_SECONDS = 400.0
FOREGROUND = re.compile(r"celery .* worker ")
"""A command of the document that runs until Ctrl-C."""


@dataclass(frozen=True)
class Ran:
    """A command of the document, as it went here."""

    step: Step
    code: int
    out: str
    err: str

    def assert_as_shown(self) -> None:
        """Fail unless the command succeeded, and wrote what is shown if anything is."""
        assert self.code == 0, f"{self.step.command}: {self.err}"
        if self.step.output:
            assert self.step.is_shown_by(self.out.splitlines()), (self.step, self.out)


def session(first_command: str) -> list[Step]:
    """Return the document's session that starts with a command."""
    found = [steps(block) for block in blocks(DOCUMENT, "console")]
    return next(session for session in found if session[0].command.startswith(first_command))


def run_in_one_shell(session: list[Step], folder: Path, environment: dict[str, str]) -> list[Ran]:
    """Run commands one after the other as a person types them: what one exports the next one has."""
    lines = [f"{{ {step.command}\n}} >{n}.out 2>{n}.err; echo $? >{n}.code\n" for n, step in enumerate(session)]
    shell = ["bash", "-c", "".join(lines)]
    subprocess.run(shell, cwd=folder, env=environment, timeout=SESSION_SECONDS, check=False)

    def read(name: str) -> str:
        return (folder / name).read_text()

    return [
        Ran(step, int(read(f"{n}.code")), read(f"{n}.out"), read(f"{n}.err")) for n, step in enumerate(session)
    ]


def run_alone(step: Step, shop: Shop) -> Ran:
    """Run a command in a shell of its own; one that stays in the foreground gets Ctrl-C when it is ready."""
    if not FOREGROUND.search(step.command):
        done = shop.run("bash", "-c", step.command)
        return Ran(step, done.returncode, done.stdout, done.stderr)
    log = shop.folder / "foreground.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            step.command.split(),
            cwd=shop.folder,
            env=shop.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: " ready." in log.read_text(), 60, "the worker in the foreground")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        return Ran(step, 0, "", "")  # Celery's exit code after Ctrl-C says that it was interrupted
    finally:
        process.kill()


def write_project(folder: Path) -> list[str]:
    """Write the files that the document shows, and return their names."""
    files = [block for block in blocks(DOCUMENT, "python", "toml") if block.file]
    for block in files:
        path = folder / str(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    return [str(block.file) for block in files]


class Shop(Host):
    """A host that has the document's project as its current folder."""

    @property
    def environment(self) -> dict[str, str]:
        """The commands' environment: they are on the PATH, and the settings file is in its default place."""
        environment = super().environment
        del environment["BROKER_APP_CONFIG"]
        return environment | {"PATH": f"{SCRIPTS}:{environment['PATH']}"}

    def celery(self, *arguments: str) -> Any:
        """Run one of our verbs as a sub-command of ``celery -A shop``, and return the JSON that it prints."""
        done = self.run("celery", "-A", "shop", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Seen:
    """The document's project at work.

    Attributes:
        ran: The commands of the document.
        status: What `celery -A shop fleet status` says of each node, by its name before the host.
        restarted: The command line of a worker that `celery -A shop fleet restart` started.
        queues: What `celery -A shop queues list` says of each queue.
    """

    ran: list[Ran]
    status: dict[str, Any]
    restarted: str
    queues: dict[str, Any]


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Shop]:
    """Return a host with the files of the document's project."""
    with made_shop(tmp_path / "project", fresh_vhost_url) as made:
        yield made


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Iterator[Seen]:
    """Run the document's commands, and ours as Celery's before the last of them."""
    with made_shop(tmp_path_factory.mktemp("project"), vhost_url) as shop:
        *before, last = session("broker-app -A shop check")
        ran = [run_alone(step, shop) for step in before]
        nodes = {
            node["node"].partition("@")[0]: node for node in shop.celery("fleet", "status", "--json")["nodes"]
        }
        assert shop.run("celery", "-A", "shop", "fleet", "restart", "reports").returncode == 0
        worker = Path(f"/proc/{shop.workers('shop')['shop.reports']}/cmdline").read_text().replace("\0", " ")
        queues = shop.celery("queues", "list", "--json")["queues"]
        yield Seen([*ran, run_alone(last, shop)], nodes, worker, queues)


@contextmanager
def made_shop(folder: Path, url: str) -> Iterator[Shop]:
    """Make the document's project; its workers are ended with the block."""
    with host(folder, url) as made:
        (folder / "broker.toml").unlink()
        for block in blocks(DOCUMENT, "python", "toml"):
            if block.file:
                path = folder / block.file
                path.parent.mkdir(exist_ok=True)
                path.write_text(block.text)
        yield Shop(made.folder, made.state, made.url)


def test_demo_can_be_kept_tried_out_and_stopped_as_the_document_says(tmp_path: Path) -> None:
    """Each line works as shown, from `demo --keep`, which prints what the README shows, to a `--stop` of all."""
    (tmp_path / ".venv").symlink_to(SCRIPTS.parent)
    with looked_after(tmp_path / ".state") as remains:
        environment = os.environ | {"HOME": str(tmp_path)} | remains.mark

        ran = run_in_one_shell(session("export PATH="), tmp_path, environment)

        for one in ran:
            one.assert_as_shown()
        kept = next(one for one in ran if "--keep" in one.step.command)
        assert re.search(r"│ lopri +│ 2,000 │ 1,980 │ +20 │ +0 │", kept.out)
        assert "still running" in kept.err
        written = {shape(line) for line in (kept.out + kept.err).splitlines()}
        shown = {shape(line) for line in steps(blocks(ROOT / "README.md", "console")[0])[0].output}
        assert {line for line in shown if "broker:" not in line} <= written  # a private node is told otherwise
        assert any("broker: RabbitMQ" in line for line in written)
        remains.assert_gone()
    left = {path.name for path in (tmp_path / ".state" / "demo").iterdir()}
    assert not left & {"running.json", "env.sh", "brokers"}


def test_commands_of_the_document_work_as_shown(seen: Seen) -> None:
    """Each line of the session with one's own project succeeds, and prints what is shown."""
    for one in seen.ran:
        one.assert_as_shown()


def test_tasks_run_in_the_queues_that_the_project_gives_them(seen: Seen) -> None:
    """The fleets of the project's two queues, with its prefix, ran its two tasks."""
    logs = {name: Path(node["log"]).read_text() for name, node in seen.status.items()}

    assert set(logs) == {"shop.default", "shop.reports"}
    assert re.search(r"Task shop\.tasks\.total\S+ succeeded", logs["shop.default"])
    assert re.search(r"Task shop\.tasks\.report\S+ succeeded", logs["shop.reports"])


def test_our_verbs_as_sub_commands_of_celery_are_about_the_users_app(seen: Seen) -> None:
    """`celery -A shop fleet status` and `queues list` tell of the shop's queues and workers."""
    assert set(seen.queues) == {"default", "reports"}
    assert all(node["is_consuming"] and node["queue"] in seen.queues for node in seen.status.values())


def test_workers_started_by_a_sub_command_of_celery_get_the_users_app(seen: Seen) -> None:
    """`celery -A shop fleet restart` starts `celery … -A shop`, which finds the project's tasks."""
    assert " -A shop " in seen.restarted


def test_importing_the_project_reads_no_settings(shop: Shop) -> None:
    """With unreadable settings `import shop.tasks` succeeds, and the first use says what is wrong."""
    (shop.folder / "config" / "broker.toml").write_text("prefix = 7")

    assert shop.run("python", "-c", "import shop.tasks").returncode == 0
    done = shop.run("celery", "-A", "shop", "check")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("broker-app: config/broker.toml: prefix: ")


def test_celery_without_an_app_is_about_the_default_app(shop: Shop) -> None:
    """`celery queues list` without -A is about broker_app, with the settings of the current folder."""
    done = shop.run("celery", "queues", "list", "--json")

    assert set(json.loads(done.stdout)["queues"]) == {"default", "reports"}


def test_plain_celery_app_is_refused(shop: Shop) -> None:
    """With an app that is no BrokerApp our sub-commands say what to use instead."""
    (shop.folder / "plain.py").write_text("from celery import Celery\napp = Celery('plain')\n")

    for command in ("celery", "broker-app"):
        done = shop.run(command, "-A", "plain", "queues", "list")
        assert done.returncode == 2
        assert "-A plain: expected a BrokerApp, got Celery" in done.stderr
