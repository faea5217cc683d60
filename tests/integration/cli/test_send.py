"""`broker-app send` against a real broker: publishing, refusals and the summary."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from brokers import vhost_of
from click.testing import CliRunner
from ending import END_SECONDS, Process, ending
from proxy import TcpProxy
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth
from broker_app.cli import exit_codes
from broker_app.cli.command import CliContext
from broker_app.cli.send import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers import Management
    from click.testing import Result

SCRIPTS = Path(sys.executable).parent
SETTINGS = """
[queues.default]
[queues.lopri]
[queues.urgent]
type = "classic"
priorities = true
"""
# a queue as a task's own attribute is deprecated in Celery, but what people have is tried too
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:\s*The '(queue|priority)' task attribute"),
    pytest.mark.version,
]

ADD = '{"task": "shop.add", "args": [1, 2]}\n'


@pytest.fixture
def make_app(fresh_vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BrokerApp]:
    """Return what makes an app with a few tasks, on a virtual host of the test's own."""

    def make(url: str = fresh_vhost_url, settings: str = SETTINGS) -> BrokerApp:
        monkeypatch.setenv("BROKER_APP_BROKER_URL", url)
        (tmp_path / "broker.toml").write_text(settings)
        app = BrokerApp("shop", config=tmp_path / "broker.toml", set_as_current=False)

        @app.task(name="shop.add", shared=False)
        def add(x: Any, y: Any) -> Any:
            """Take two."""

        @app.task(name="shop.rush", shared=False, queue="urgent", priority=7)
        def rush(**facts: Any) -> None:
            """Take any keyword, and a queue and priority of its own."""

        @app.task(name="shop.forget", shared=False, ignore_result=True)
        def forget() -> None:
            """Keep no result."""

        return app

    return make


@pytest.fixture
def app(make_app: Callable[..., BrokerApp]) -> BrokerApp:
    """Return an app with a few tasks."""
    return make_app()


def run(app: BrokerApp, *args: str, stdin: str | bytes = "") -> Result:
    """Run the command in this process."""
    context = CliContext(app=lambda: app, app_name="shop", is_verbose=False)
    return CliRunner().invoke(send, args, obj=context, input=stdin)


def take(app: BrokerApp, queue: str) -> list[tuple[Any, ...]]:
    """Take all messages of a queue: task, id, args, kwargs, priority."""
    taken = []
    with connect(app) as connection, connection.channel() as channel:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            args, kwargs, _ = json.loads(message.body)
            headers = message.headers
            taken.append((headers["task"], headers["id"], args, kwargs, message.properties.get("priority")))
    return taken


def depths(app: BrokerApp) -> dict[str, int | None]:
    """Return the ready messages of each queue, None for one that is not there."""
    with connect(app) as connection:
        return {spec.name: queue_depth(connection, spec.broker_name) for spec in app.settings.specs()}


# One call


def test_a_call_is_on_the_broker_when_its_id_is_printed(app: BrokerApp) -> None:
    """The command prints the id of the task in its queue, and the arguments arrive unchanged."""
    result = run(app, "shop.add", "2", "http://127.0.0.1/?a=b", "--queue", "lopri")
    assert (result.exit_code, result.stderr) == (exit_codes.OK, "")
    assert take(app, "lopri") == [("shop.add", result.stdout.strip(), [2, "http://127.0.0.1/?a=b"], {}, None)]


def test_keywords_options_and_json(app: BrokerApp) -> None:
    """Keywords, a chosen id and a priority arrive; --json prints the id for a script."""
    words = ["shop.rush", "--kwargs", '{"a": [1]}', "-k", "b=x", "-k", "c=3", "--id", "mine", "--priority", "9"]
    result = run(app, *words, "--json")
    assert json.loads(result.stdout) == {"id": "mine", "task": "shop.rush"}
    assert take(app, "urgent") == [("shop.rush", "mine", [], {"a": [1], "b": "x", "c": 3}, 9)]


def test_a_task_keeps_its_own_queue_and_priority(app: BrokerApp) -> None:
    """The options of the task apply where the call gives none."""
    run(app, "shop.rush")
    [(task, _, _, _, priority)] = take(app, "urgent")
    assert (task, priority) == ("shop.rush", 7)


def test_a_countdown_waits_in_a_lane(app: BrokerApp) -> None:
    """A delayed call is confirmed in its lane and not in its queue."""
    assert run(app, "shop.add", "1", "2", "--countdown", "600").exit_code == exit_codes.OK
    assert run(app, "shop.add", "1", "2", "--eta", "2020-01-01").exit_code == exit_codes.OK
    with connect(app) as connection:
        assert queue_depth(connection, "delay.10m") == 1
        assert queue_depth(connection, "default") == 1  # an eta in the past is now


def test_negative_numbers(app: BrokerApp) -> None:
    """Arguments that start with a minus go after --, and the fault of leaving it out says so."""
    assert run(app, "shop.add", "--queue", "lopri", "--", "-1", "-.5e1x").exit_code == exit_codes.OK
    assert [args for _, _, args, _, _ in take(app, "lopri")] == [[-1, "-.5e1x"]]
    result = run(app, "shop.add", "-1", "2")
    assert result.exit_code == exit_codes.USAGE
    assert "write -- before the arguments" in result.stderr


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["shop.ad", "1", "2"], "did you mean 'shop.add'?"),
        (["shop.add", "1"], "expected shop.add(x, y), got 1 positional argument"),
        (["shop.add", "1", "[2"], "argument 2: expected JSON"),
        (["shop.add", "1", "True"], "argument 2: expected JSON's true"),
        (["shop.add", "--kwargs", "[1]"], "--kwargs: expected a JSON object"),
        (["shop.add", "-k", "x"], "-k: expected name=value"),
        (["shop.add", "-k", "x=1", "-k", "x=2"], "-k: expected 'x' once"),
        (["shop.add", "1", "2", "--queue", "loprii"], "did you mean 'lopri'?"),
        (["shop.add", "1", "2", "--priority", "5"], "queue 'default': expected no priority, got 5"),
        (["shop.rush", "--priority", "10"], "priority must be an integer 0..9"),
        (["shop.add", "1", "2", "--countdown", "-1"], "countdown: expected"),
        (["shop.add", "1", "2", "--countdown", "1", "--eta", "2030-01-01"], "got both"),
        (["shop.add", "1", "2", "--eta", "soon"], "eta: expected an ISO 8601 moment"),
        (["shop.add", "1", "2", "--id", ""], "id: expected"),
        (["shop.add", "1", "2", "--timeout", "1"], "--timeout: expected --wait"),
        (["shop.add", "1", "2", "--keep-going"], "--keep-going: expected --from"),
        (["shop.forget", "--wait"], "--wait: task shop.forget keeps no result"),
        ([], "expected a TASK or --from FILE"),
        (["shop.add", "--from", "x", "-k", "a=1", "--wait"], "got TASK, -k, --wait too"),
        (["--from", "missing.jsonl"], "--from missing.jsonl: expected a readable file"),
        (["--from", "/"], "--from /: expected a readable file of JSON lines, got: Is a directory"),
        (["--from", "\0"], "expected a readable file"),
    ],
)
def test_bad_calls_are_one_line_and_nothing_is_sent(app: BrokerApp, words: list[str], fault: str) -> None:
    """A call that is not possible is one line on stderr and exit code 2, before anything reaches the broker."""
    result = run(app, *words)
    assert result.exit_code == exit_codes.USAGE
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("broker-app: ")
    assert fault in line
    assert set(depths(app).values()) == {None}


def test_a_task_that_only_the_workers_know(app: BrokerApp) -> None:
    """--unregistered sends a task that this app does not have."""
    assert run(app, "elsewhere.task", "1", "--unregistered").exit_code == exit_codes.OK
    assert [task for task, *_ in take(app, "default")] == ["elsewhere.task"]


def test_task_modules_that_are_not_there(make_app: Callable[..., BrokerApp]) -> None:
    """An app whose task modules cannot be imported is one line."""
    app = make_app()
    app.conf.include = ["no_such_module"]
    result = run(app, "shop.add", "1", "2")
    assert result.exit_code == exit_codes.USAGE
    assert "No module named 'no_such_module'" in result.stderr


def test_no_broker(make_app: Callable[..., BrokerApp]) -> None:
    """Without a broker it is one line, the exit code of the broker, and no password."""
    settings = f"{SETTINGS}[publish]\ntimeout_seconds = 1.0\nconnect_timeout_seconds = 0.5\n"
    result = run(make_app("amqp://me:s3cret@127.0.0.1:1//", settings), "shop.add", "1", "2")
    assert result.exit_code == exit_codes.BROKER
    [line] = result.stderr.splitlines()
    assert "check that the broker is up" in line
    assert "s3cret" not in line


# Its result


def test_a_result_is_printed(app: BrokerApp) -> None:
    """--wait prints the result: a text as it is, all else as JSON; --json says id and state too."""
    for number, (value, shown) in enumerate([(3, "3"), ("zwölf", "zwölf"), ({"a": None}, '{"a": null}')]):
        app.backend.store_result(f"id{number}", value, "SUCCESS")
        result = run(app, "shop.add", "1", "2", "--id", f"id{number}", "--wait")
        assert (result.exit_code, result.stdout) == (exit_codes.OK, f"{shown}\n")
    result = run(app, "shop.add", "1", "2", "--id", "id2", "--wait", "--json")
    assert json.loads(result.stdout) == {"id": "id2", "state": "SUCCESS", "result": {"a": None}}


def test_a_failure_is_told(app: BrokerApp) -> None:
    """A task that failed is exit code 1 with the error's type and message."""
    app.backend.store_result("bad", ValueError("no\nsuch item"), "FAILURE")
    result = run(app, "shop.add", "1", "2", "--id", "bad", "--wait", "--json")
    assert result.exit_code == exit_codes.FAILED
    assert result.stderr == "broker-app: task shop.add [bad]: ValueError: no such item\n"
    assert json.loads(result.stdout)["error"] == {"type": "ValueError", "message": "no\nsuch item"}


def test_a_time_out_is_told(app: BrokerApp) -> None:
    """Without a result in time it says so with the id, that the task goes on, and whether it has started."""
    result = run(app, "shop.add", "1", "2", "--id", "slow", "--wait", "--timeout", "0.3")
    assert result.exit_code == exit_codes.FAILED
    assert "task shop.add [slow]: no result after 0.3 s (the result store knows nothing of it" in result.stderr
    app.backend.store_result("slow", None, "STARTED")
    result = run(app, "shop.add", "1", "2", "--id", "slow", "--wait", "--timeout", "0.3", "--json")
    assert "(its state is STARTED)" in result.stderr
    assert json.loads(result.stdout) == {"id": "slow", "state": "STARTED"}


def test_a_result_store_that_does_not_answer(
    make_app: Callable[..., BrokerApp], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable result store is one line, which says that the task was published, and the cause."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "file" / "state"))
    result = run(make_app(), "shop.add", "1", "2", "--wait")
    assert result.exit_code == exit_codes.FAILED
    [line] = result.stderr.splitlines()
    assert "it was published, but the result store failed" in line
    assert "Not a directory" in line


# A file of calls


def test_a_file(app: BrokerApp, tmp_path: Path) -> None:
    """Every line is on the broker, in its order, and the summary counts them by queue."""
    lines = [
        json.dumps({"task": "shop.add", "args": [n, n], "queue": ("default", "lopri")[n % 2]}) for n in range(7)
    ]
    lines += [json.dumps({"task": "shop.rush", "countdown": 600}), ""]
    file = tmp_path / "calls.jsonl"
    file.write_text("\n\n".join(lines))
    result = run(app, "--from", str(file))
    assert (result.exit_code, result.stderr) == (exit_codes.OK, "")
    assert result.stdout.startswith("accepted 8 in ")
    assert result.stdout.endswith("s: default 4, lopri 3, urgent 1\n")
    assert [args for _, _, args, _, _ in take(app, "default")] == [[0, 0], [2, 2], [4, 4], [6, 6]]


def test_an_empty_file(app: BrokerApp) -> None:
    """A file without a line is no fault."""
    result = run(app, "--from", "-")
    assert result.exit_code == exit_codes.OK
    assert result.stdout.startswith("accepted 0 in ")


def test_it_stops_at_the_first_bad_line(app: BrokerApp) -> None:
    """A bad line is named with its number; what came before is on the broker, what comes after is not."""
    result = run(app, "--from", "-", stdin=ADD * 2 + "\n" + '{"task": "shop.sub"}\n' + ADD)
    assert result.exit_code == exit_codes.USAGE
    assert result.stderr.startswith("broker-app: stdin:4: task 'shop.sub': expected one of")
    assert result.stdout.splitlines()[1:] == ["bad lines 1, stopped at stdin:4, the rest was not sent"]
    assert depths(app)["default"] == 2


def test_it_goes_on_if_asked(app: BrokerApp) -> None:
    """--keep-going tells every bad line by number and reason, sends the rest, and exits with 2 all the same."""
    bad = [
        b"nonsense",
        b"\xff",
        b'{"task": "shop.add", "args": [1]}',
        b'{"task": "shop.add", "args": [1, 2], "queue": "loprii"}',
        b'{"task": "shop.rush", "priority": 10}',
        b'{"task": "shop.add", "args": [1, 2], "count": 3}',
    ]
    lines = [part for line in bad for part in (line, ADD.strip().encode())]
    result = run(app, "--from", "-", "--keep-going", "--json", stdin=b"\n".join(lines))
    assert result.exit_code == exit_codes.USAGE
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [f"stdin:{n}" for n in range(1, 12, 2)]
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "accepted": 6,
        "queues": {"default": 6},
        "not_accepted": 0,
        "maybe_twice": 0,
        "bad_lines": 6,
        "stopped_at": None,
        "read_to": 12,
        "interrupted": False,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file whose reading fails")
def test_a_file_that_cannot_be_read_on(app: BrokerApp) -> None:
    """A read error is reported with its line, and the summary follows."""
    result = run(app, "--from", "/proc/self/mem")
    assert result.exit_code == exit_codes.USAGE
    assert result.stderr == "broker-app: /proc/self/mem:1: expected a readable file, got: Input/output error\n"
    assert result.stdout.startswith("accepted 0 in ")


def test_a_queue_that_refuses(app: BrokerApp, management: Management) -> None:
    """A call that the broker refused is reported and counted, and the exit code is 5 even with invalid lines."""
    run(app, "--from", "-", stdin=ADD)
    vhost = vhost_of(app.settings.broker_url.get_secret_value())
    policy = {"pattern": "^default$", "definition": {"max-length": 1}, "apply-to": "queues"}
    management.put(f"policies/{quote(vhost, safe='')}/full", policy)
    wait_until(lambda: management.queue(vhost, "default").get("policy") == "full", 30, "the policy to be in force")
    lopri = '{"task": "shop.add", "args": [1, 2], "queue": "lopri"}\n'
    result = run(app, "--from", "-", "--keep-going", stdin=ADD * 2_000 + lopri + "x\n")
    assert result.exit_code == exit_codes.NOT_PUBLISHED
    assert "the queue refused it" in result.stderr
    assert "lopri 1" in result.stdout
    assert "not accepted by the broker " in result.stdout
    assert "bad lines 1" in result.stdout


def test_a_broker_that_falls_silent(
    make_app: Callable[..., BrokerApp], fresh_vhost_url: str, tmp_path: Path
) -> None:
    """When confirmations stop coming it says how many were accepted, and ends with 5 in a bounded time."""
    settings = f"{SETTINGS}[publish]\ntimeout_seconds = 6\nconnect_timeout_seconds = 4\n"
    looking = make_app(fresh_vhost_url)
    assert looking.settings  # read before the process has others
    fifo = tmp_path / "calls"
    os.mkfifo(fifo)
    with (
        TcpProxy.to(fresh_vhost_url) as proxy,
        sending(make_app(proxy.url(fresh_vhost_url), settings), fifo) as call,
    ):
        with fifo.open("w") as lines:
            lines.write(ADD)
            lines.flush()
            wait_until(lambda: depths(looking)["default"] == 1, 30, "the first call to arrive")
            proxy.freeze()
            lines.write(ADD)
        out, err = call.communicate(timeout=60)
    assert call.returncode == exit_codes.NOT_PUBLISHED
    assert out.startswith("accepted 1 in ")
    assert "calls:2: task shop.add [" in err
    assert "the broker may have accepted it" in err


# As a process


@pytest.fixture
def worker(fresh_vhost_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a worker of the default app, and return the environment that it shares with commands."""
    ours = {"BROKER_APP_BROKER_URL": fresh_vhost_url, "BROKER_APP_STATE_DIR": str(tmp_path / "state")}
    command = [str(SCRIPTS / "celery"), "-A", "broker_app", "worker", "-P", "solo", "-l", "ERROR"]
    with ending(subprocess.Popen(command, env=os.environ | ours, cwd=tmp_path, stdout=subprocess.DEVNULL)):
        yield os.environ | ours


def test_a_task_is_run_and_its_end_is_printed(worker: dict[str, str], tmp_path: Path) -> None:
    """With a worker, --wait prints what the task returned, or why it failed."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(SCRIPTS / "broker-app"), "send", *words, "--wait", "--timeout", "60"]
        return subprocess.run(
            command, env=worker, cwd=tmp_path, text=True, capture_output=True, check=False, timeout=END_SECONDS
        )

    done = call("broker_app.tasks.add", "2", "2")
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.OK, "4\n", "")
    failed = call("broker_app.tasks.fetch", "no-url")
    assert (failed.returncode, failed.stdout) == (exit_codes.FAILED, "")
    assert "FetchError: " in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@contextmanager
def sending(app: BrokerApp, source: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a process that reads a file."""
    environment = os.environ | {"BROKER_APP_BROKER_URL": app.settings.broker_url.get_secret_value()}
    with Process(
        [SCRIPTS / "broker-app", "send", "--from", source, "--unregistered"],
        env=environment | {"BROKER_APP_CONFIG": str(app.config_file)},
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c(app: BrokerApp, tmp_path: Path) -> None:
    """Lines of a pipe are sent as they come; Ctrl-C says how many were accepted and exits with 130."""
    fifo = tmp_path / "calls"
    os.mkfifo(fifo)
    with sending(app, fifo) as process, fifo.open("w") as lines:
        lines.write(ADD * 3)
        lines.flush()
        wait_until(lambda: depths(app)["default"] == 3, 30, "the calls to arrive")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=END_SECONDS)
    assert process.returncode == exit_codes.INTERRUPTED
    assert out.startswith("accepted 3 in ")
    assert "interrupted, the rest was not sent" in out
    assert err == ""


def test_a_bar_on_a_terminal_only(app: BrokerApp, tmp_path: Path) -> None:
    """A terminal shows a bar while it sends, and a file or a pipe gets nothing but faults and the summary."""
    file = tmp_path / "calls.jsonl"
    file.write_text(ADD * 20)
    with sending(app, file) as process:
        out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.startswith("accepted 20 in ")
    terminal, side = pty.openpty()
    with sending(app, file, stderr=side) as process:
        os.close(side)
        out, _ = process.communicate(timeout=60)
    assert "sending" in os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert "sending" not in out
