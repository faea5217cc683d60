"""The settings: sources, refusals, and what the error messages say and hide."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from broker_app.errors import SettingsError
from broker_app.queues import DeadLetters, QueueType
from broker_app.settings import QueueSettings, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHIPPED = Path(__file__).parents[3] / "config" / "broker.toml"
NOBODY = 65_534
SECRET = "s3cr3t"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Write a settings file, in a folder that holds no other."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        file = tmp_path / "broker.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


def _problems(path: Path | str | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return caught.value.problems


# Sources


def test_the_shipped_file_says_what_the_defaults_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of config/broker.toml is the built-in default, and every default is in it except for secrets."""
    monkeypatch.chdir(tmp_path)
    assert load_settings(SHIPPED) == load_settings()
    written = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    dumped = Settings().model_dump(mode="json", exclude={"state_dir"}, exclude_none=True)
    dumped["broker_url"] = Settings().broker_url.get_secret_value()
    assert written == dumped


def test_every_setting_stands_in_the_shipped_file() -> None:
    """Those without a written default are there as a comment, so that an operator finds them."""
    text = SHIPPED.read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if name not in text] == []


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting by itself, nested ones too: what one source leaves out is left to the next."""
    monkeypatch.setenv("BROKER_APP_PUBLISH__POOL_LIMIT", "7")
    monkeypatch.setenv("BROKER_APP_QUEUES__LOPRI__PREFETCH", "3")
    file = write(
        "prefix = 'a.'\n[publish]\npool_limit = 5\ntimeout_seconds = 8\n[queues.default]\n[queues.lopri]\n"
    )
    settings = load_settings(file)
    assert (settings.publish.pool_limit, settings.publish.timeout_seconds) == (7, 8.0)
    assert settings.publish.connect_timeout_seconds == 4.0
    assert (settings.queues["lopri"].prefetch, settings.queues["default"].prefetch) == (3, 1)
    assert settings.prefix == "a."


def test_a_table_can_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a file declares a queue with one variable."""
    monkeypatch.setenv("BROKER_APP_QUEUES", '{"urgent": {"priorities": true}}')
    monkeypatch.setenv("BROKER_APP_TASK_ROUTES", '{"Reports.*": "urgent"}')
    settings = load_settings()
    assert settings.queues["urgent"].priorities is True
    assert settings.task_routes == {"Reports.*": "urgent"}


def test_a_file_that_declares_queues_declares_all_of_them(write: Callable[[str], Path]) -> None:
    """The built-in two are there only until the settings name others."""
    assert list(load_settings(write("default_queue = 'urgent'\n[queues.urgent]\n")).queues) == ["urgent"]
    assert list(load_settings(write("prefix = 'a.'\n")).queues) == ["default", "lopri"]


def test_one_table_declares_a_queue(write: Callable[[str], Path]) -> None:
    """Adding `urgent` is one table: name, type, priorities, prefetch, limits, dead letters, fleet."""
    settings = load_settings(
        write(
            "[queues.default]\n[queues.urgent]\ntype = 'classic'\npriorities = true\nprefetch = 2\n"
            "delivery_limit = 9\ndead_letters = 'discard'\n"
            "fleet = {nodes = 2, pool = 'gevent', concurrency = 100}\n"
        )
    )
    spec = settings.routing_table().queue("urgent")
    assert (spec.type, spec.has_priorities, spec.delivery_limit) == (QueueType.CLASSIC, True, 9)
    assert spec.dead_letters is DeadLetters.DISCARD
    assert settings.queues["urgent"].fleet.model_dump(exclude_unset=True) == {
        "nodes": 2,
        "pool": "gevent",
        "concurrency": 100,
    }


def test_the_file_is_found_by_argument_then_variable_then_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`config/broker.toml` in the current folder is read only if no other file is named."""
    monkeypatch.chdir(tmp_path)
    for name in ("config/broker.toml", "variable.toml", "argument.toml"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"prefix = '{file.stem}.'\n", encoding="utf-8")
    assert load_settings().prefix == "broker."
    monkeypatch.setenv("BROKER_APP_CONFIG", "variable.toml")
    assert load_settings().prefix == "variable."
    assert load_settings("argument.toml").prefix == "argument."


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("wait_objective_seconds = 7", "must be a bucket bound of the metrics, the nearest are 5 or 10; got 7"),
        ("wait_objective_seconds = 0", "the nearest are 0.001; got 0"),
        ("wait_objective_seconds = 86400", "the nearest are 3600; got 86400"),
        ("wait_objective_percent = 100", "wait_objective_percent: must be less than or equal to 99.99"),
    ],
)
def test_an_objective_that_cannot_be_counted(write: Callable[[str], Path], objective: str, expected: str) -> None:
    """A wait between two buckets, and an objective of 100 %, are refused with the possible values."""
    (problem,) = _problems(write(f"[queues.default]\n{objective}\n"))
    assert expected in problem


def test_a_queue_without_an_objective_has_none(write: Callable[[str], Path]) -> None:
    """A declared queue has an objective only if its table says so."""
    settings = load_settings(write("[queues.default]\n[queues.urgent]\nwait_objective_seconds = 0.5\n"))
    assert settings.queues["default"].wait_objective_seconds is None
    assert settings.queues["urgent"].wait_objective_seconds == 0.5


def test_a_byte_order_mark_is_passed_over(write: Callable[[bytes], Path]) -> None:
    """Editors on Windows write one."""
    assert load_settings(write(b"\xef\xbb\xbfprefix = 'a.'\n")).prefix == "a."


def test_the_state_folder_is_absolute_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` and relative paths are resolved when the settings are read; reading them makes no folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BROKER_APP_STATE_DIR", "~/here")
    assert load_settings().state_dir == tmp_path / "home" / "here"
    monkeypatch.setenv("BROKER_APP_STATE_DIR", "there")
    assert load_settings().state_dir == tmp_path / "there"
    monkeypatch.delenv("BROKER_APP_STATE_DIR")
    assert load_settings().state_dir == tmp_path / "state" / "broker-app"
    assert list(tmp_path.iterdir()) == []


def test_settings_are_frozen() -> None:
    """Nobody changes them after start-up, not one level down either."""
    settings = Settings()
    for value, name in (
        (settings, "prefix"),
        (settings.publish, "pool_limit"),
        (settings.queues["default"], "type"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, name, "x")


# Documentation of fields


def _fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, f"{path}{name}.")


@pytest.mark.parametrize(("name", "field"), list(_fields(Settings)), ids=lambda value: str(value)[:40])
def test_every_field_says_what_it_does_and_in_what_unit(name: str, field: Any) -> None:
    """A number is a count of something that the name or the description says, or seconds, bytes, or a factor."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return  # its own fields say it
    assert field.description
    assert field.description.endswith(".")
    if field.annotation is float:
        assert name.endswith(("_seconds", "_percent", ".factor"))
    if field.annotation is int:
        assert name.endswith("_bytes") or any(
            thing in field.description
            for thing in ("processes", "tasks", "Messages", "Starts", "Retries", "Connections", "port")
        )


# Refusals


def test_every_fault_is_told_in_one_run(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown keys, wrong types, wrong ranges, wrong names, wrong references and a wrong variable, all at once."""
    monkeypatch.setenv("BROKER_APP_PUBLISH__POOL_LIMIT", "one")
    monkeypatch.setenv("BROKER_APP_PREFX", "a.")
    file = write(
        "prefx = 1\ndefault_queue = 'defualt'\nheartbeat_seconds = 'often'\n"
        "[task_routes]\n'reports.*' = 'lopr'\n"
        "[queues.default]\nprefech = 2\ntype = 'quorom'\n[queues.lopri.fleet]\nconcurency = 2\n[queues.'a b']\n"
    )
    problems = "\n".join(_problems(file))
    for expected in (
        f"{file}: prefx is not a setting (did you mean 'prefix'?)",
        f"{file}: queues.default.prefech is not a setting (did you mean 'prefetch'?)",
        f"{file}: queues.lopri.fleet.concurency is not a setting (did you mean 'concurrency'?)",
        "environment: BROKER_APP_PREFX is not a setting (did you mean 'BROKER_APP_PREFIX'?)",
        f"{file}: heartbeat_seconds: must be a number, got 'often'",
        f"{file}: queues.default.type: must be 'quorum' or 'classic', got 'quorom'",
        "environment (BROKER_APP_PUBLISH__POOL_LIMIT): publish.pool_limit: must be a whole number, got 'one'",
        f"{file}: queues.a b: a queue's name must be letters",
        f"{file}: default_queue: must be one of the declared queues (default, lopri, a b), got 'defualt'",
        f"{file}: task_routes.'reports.*': must be one of the declared queues",
    ):
        assert expected in problems
    assert len(problems.splitlines()) == 10


def test_no_fault_is_told_twice(write: Callable[[str], Path]) -> None:
    """An unknown key is one line, with the nearest key and without pydantic's."""
    assert len(_problems(write("[fetch]\nmax_byts = 1\n"))) == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("heartbeat_seconds = nan", "heartbeat_seconds"),
        ("heartbeat_seconds = 3.9", "heartbeat_seconds"),
        ("result_expires_seconds = inf", "result_expires_seconds"),
        ("prefix = 'a b'", "prefix"),
        ("prefix = 'amq.'", "queues.default"),
        ("state_dir = ''", "state_dir"),
        ("state_dir = '~nobody-of-this-name/x'", "state_dir"),
        ("result_url = ''", "result_url"),
        ("broker_url = ''", "broker_url"),
        ("broker_url = 'redis://127.0.0.1'", "broker_url"),
        ("broker_url = 'amqp://a//;http://b//'", "broker_url"),
        ("common_lanes = ['90s']", "common_lanes"),
        ("[publish]\ntimeout_seconds = 0", "publish.timeout_seconds"),
        ("[publish]\npool_limit = 1", "publish.pool_limit"),
        ("[fetch]\nmax_bytes = 0", "fetch.max_bytes"),
        ("publish = 5", "publish"),
        ("queues = 5", "queues"),
        ("[queues]", "queues"),
        ("[queues]\ndefault = 5", "queues.default"),
        ("[queues.default]\nprefetch = 1.5", "queues.default.prefetch"),
        ("[queues.default]\nprefetch = 0", "queues.default.prefetch"),
        ("[queues.default]\nprefetch = true", "queues.default.prefetch"),
        ("[queues.default]\nprefetch = 'much'", "queues.default.prefetch"),
        ("[queues.default]\npriorities = 'often'", "queues.default.priorities"),
        ("[queues.default]\ndelivery_limit = -1", "queues.default.delivery_limit"),
        ("[queues.default.fleet]\npool = 'eventlet'", "queues.default.fleet.pool"),
        ("[queues.default.fleet]\npool = 'solo'\nconcurrency = 2", "queues.default.fleet"),
        ("[queues.default.fleet]\ntime_limit_seconds = 0", "queues.default.fleet.time_limit_seconds"),
        (
            "[queues.default.fleet]\ntime_limit_seconds = 5\nsoft_time_limit_seconds = 5",
            "queues.default.fleet",
        ),
        ("[queues.default.fleet]\npool='solo'\nconcurrency=1\ntime_limit_seconds = 5", "queues.default.fleet"),
        ("[queues.default.fleet]\nmax_tasks_per_child = 5", "queues.default.fleet"),
        ("[queues.default.fleet]\npool='gevent'\nmax_memory_per_child_mb = 5", "queues.default.fleet"),
        ("[queues.default.fleet]\nenvironment = {'A B' = 'c'}", "queues.default.fleet"),
        ("[queues.default.fleet]\nenvironment = {BROKER_APP_PREFIX = 'c'}", "queues.default.fleet"),
        ("[queues.default.fleet]\nnice = 20", "queues.default.fleet.nice"),
        ("[queues.default.fleet]\nhelps = ['lopri']", "queues.default.fleet.helps"),
        ("[queues.default.fleet]\nhelps = ['default']\n[queues.lopri]", "queues.default.fleet.helps"),
        ("[queues.default.fleet]\nhelps = ['lopri']\nhelps_slots = 8\n[queues.lopri]", "queues.default.fleet"),
        ("[queues.default]\n[queues.'amq.a']", "queues.amq.a"),
        ("[queues.default]\n[queues.'a.dead']", "queues.a.dead"),
        ("[queues.default]\n[queues.'a.*']", "queues.a.*"),
        ("[queues.default]\n[queues.tasks]", "queues.tasks"),
        (f"[queues.default]\n[queues.{'q' * 238}]", f"queues.{'q' * 238}"),
        (f"prefix = '{'p' * 231}'", "queues.default"),
        ("prefix = 'a.'\n[queues.default]\n[queues.b]\n[queues.'a.b']", "queues.a.b"),
    ],
)
def test_a_bad_value_is_refused_at_its_place(write: Callable[[str], Path], text: str, place: str) -> None:
    """The file and the place stand first in the line, the line is one line, and it says more than a class name."""
    file = write(text)
    problem = next(problem for problem in _problems(file) if f"{file}: {place}: " in problem)
    assert "\n" not in problem
    assert len(problem) > len(f"{file}: {place}: ") + 10


def test_the_value_of_a_variable_for_workers_is_not_shown(write: Callable[[str], Path]) -> None:
    """It may be a secret, also where a number is given for a text."""
    (problem,) = _problems(write("[queues.default.fleet]\nenvironment = {API_KEY = 987654321}\n"))
    assert "queues.default.fleet.environment.API_KEY" in problem
    assert "987654321" not in problem


def test_a_queue_that_stands_twice_is_refused(write: Callable[[str], Path]) -> None:
    """TOML does not merge two tables of one name, and the message says where the second is."""
    (problem,) = _problems(write("[queues.default]\n[queues.lopri]\n[queues.default]\nprefetch = 2\n"))
    assert "a queue or key may appear only once" in problem
    assert "line 3" in problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff\xfe\x00p", "utf-8"), (b"prefix = \n", "line 1"), (b"[queues.default\n", "line 1")],
)
def test_a_file_that_is_no_toml_is_refused(write: Callable[[bytes], Path], content: bytes, expected: str) -> None:
    """The message names the file and what could not be read."""
    file = write(content)
    (problem,) = _problems(file)
    assert problem.startswith(f"{file}: expected TOML")
    assert expected in problem


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its defaults are not taken in silence: the message says who named it, the path and the cure."""
    monkeypatch.chdir(tmp_path)
    assert _problems("gone.toml") == (
        (
            "the argument config: expected a settings file, got gone.toml, which is not an existing file; "
            "correct the path"
        ),
    )
    monkeypatch.setenv("BROKER_APP_CONFIG", "gone.toml")
    assert _problems()[0].startswith("BROKER_APP_CONFIG: expected a settings file, got gone.toml")
    assert "which is not an existing file" in _problems(tmp_path)[0]  # a folder


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/broker.toml"])
def test_a_path_that_cannot_be_is_refused(name: str) -> None:
    """Also one that the operating system will not even look up."""
    assert f"got {name}" in _problems(name)[0]


def test_a_file_that_may_not_be_read_is_refused(write: Callable[[str], Path]) -> None:
    """The message says so, for the file itself and for a folder on its way."""
    file = write("prefix = ''\n")
    file.chmod(0)
    file.parent.chmod(0o755)
    open_parents = [folder for folder in file.parents if not folder.stat().st_mode & 1]
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        (problem,) = _problems(file)
    finally:
        if is_root:
            os.seteuid(0)
    assert "Permission denied" in problem
    assert problem.startswith("the argument config" if open_parents else str(file))


def test_a_slip_in_a_variable_makes_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """`BROKER_APP_QUEUES__LOPR__PREFETCH` is refused with the nearest queue, not a new queue `lopr`."""
    monkeypatch.setenv("BROKER_APP_QUEUES__LOPR__PREFETCH", "3")
    (problem,) = _problems()
    assert problem.startswith(
        "environment: BROKER_APP_QUEUES__LOPR__PREFETCH: expected one of the declared queues"
    )
    assert "did you mean 'lopri'?" in problem


def test_a_variable_that_is_no_json_is_refused(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, with the JSON error, and the file's faults are reported in the same run."""
    monkeypatch.setenv("BROKER_APP_QUEUES", "{lopri}")
    monkeypatch.setenv("BROKER_APP_PUBLISH", "10")
    file = write("prefx = 1\n")
    problems = _problems(file)
    assert [problem.partition(":")[0] for problem in problems] == [str(file), "environment (BROKER_APP_QUEUES)"]
    monkeypatch.delenv("BROKER_APP_QUEUES")
    assert any(problem.startswith("environment (BROKER_APP_PUBLISH): publish: ") for problem in _problems())


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("BROKER_APP_DEFAULT_QUEUE", "lopr", "default_queue"),
        ("BROKER_APP_PUBLISH", '{"pool_limit": 1}', "publish.pool_limit"),
        ("BROKER_APP_QUEUES__LOPRI__FLEET__NODES", "-1", "queues.lopri.fleet.nodes"),
        ("broker_app_prefix", "a b", "prefix"),
    ],
)
def test_a_bad_variable_is_named_as_the_source(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, place: str
) -> None:
    """The file is not blamed for a value from the environment."""
    monkeypatch.setenv(variable, value)
    (problem,) = _problems(write(""))
    name = variable.upper()
    assert problem.startswith(f"environment ({name}): {place}: ")


# Secrets in refusals


@pytest.mark.parametrize(
    "text",
    [
        f"broker_url = 'ampq://user:{SECRET}@host//'",
        f"broker_url = 'amqp://user:{SECRET}/more@host//'",
        f"broker_url = 'amqp://user:{SECRET}#more@host//'",
        f"broker_url = 'amqp://user:{SECRET}@host:port//'",
        f"broker_url = ['amqp://user:{SECRET}@host//']",
        f"broker_url = {{url = 'amqp://user:{SECRET}@host//'}}",
        f"result_url = '{SECRET}'",
        f"result_url = 'redis://:{SECRET}/more@host'",
        f"result_url = ['redis://:{SECRET}@host']",
        f"brocker_url = 'amqp://user:{SECRET}@host//'",
        f"password = '{SECRET}'",
        f"prefix = 'amqp://user:{SECRET}@host//'",
        f"default_queue = 'amqp://user:{SECRET}@host//'",
        f"heartbeat_seconds = 'amqp://user:{SECRET}@host//'",
        f"common_lanes = ['amqp://user:{SECRET}@host//']",
        f"task_routes = {{a = 'amqp://user:{SECRET} with@blanks@host//'}}",
        f"publish = 'amqp://user:{SECRET}@host//'",
        f"[publish]\npassword = '{SECRET}'",
        f"[queues.'amqp://user:{SECRET}@host//']",
        f"broker_url = 'amqp://user:{SECRET}@host//",
    ],
)
def test_no_secret_is_shown_whatever_is_wrong(write: Callable[[str], Path], text: str) -> None:
    """A password is in no line, in no text of the error and in nothing that a traceback would print."""
    with pytest.raises(SettingsError) as caught:
        load_settings(write(text))
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r} {error.__notes__ if hasattr(error, '__notes__') else ''}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "variable",
    ["BROKER_APP_BROKER_URL", "BROKER_APP_RESULT_URL", "BROKER_APP_PUBLISH__PASSWORD", "BROKER_APP_TOKEN"],
)
def test_no_secret_of_the_environment_is_shown(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A variable is named, and its value is not."""
    monkeypatch.setenv(variable, SECRET)
    assert SECRET not in " ".join(_problems())


def test_settings_can_be_printed() -> None:
    """Neither str nor repr nor a dump for people shows a URL that may hold a login."""
    url = f"redis://user:{SECRET}@host"
    settings = Settings(broker_url=f"amqp://user:{SECRET}@host//", result_url=url, management_url=url)
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_a_queue_alone_has_its_defaults() -> None:
    """An empty table is a queue: quorum, no priorities, one message for each slot, dead letters kept."""
    queue = QueueSettings()
    assert (queue.type, queue.priorities, queue.prefetch) == (QueueType.QUORUM, False, 1)
    assert (queue.dead_letters, queue.delivery_limit) == (DeadLetters.KEEP, 5)


def test_all_faults_of_one_table_are_told(write: Callable[[str], Path]) -> None:
    """A bad field hides no rule between other fields, nor does one rule hide the next."""
    text = """
    [queues.default.fleet]
    pool = "solo"
    concurrency = 2
    time_limit_seconds = 5
    soft_time_limit_seconds = 6
    max_tasks_per_child = 3
    nodes = -1
    helps = ["lopry"]
    environment = {"A-B" = "x", BROKER_APP_PREFIX = "y"}
    [metrics]
    username = "u"
    certificate_key = "key.pem"
    port = 70000
    """
    with pytest.raises(SettingsError) as caught:
        load_settings(write(text))
    told = "\n".join(caught.value.problems)
    for part in (
        "concurrency must be 1",
        "time_limit_seconds needs pool",
        "max_tasks_per_child needs pool",
        "soft_time_limit_seconds must be below",
        "nodes: ",
        "'A-B'",
        "must not hold BROKER_APP_PREFIX",
        "lopry",
        "username and password",
        "certificate_key needs",
        "metrics.port",
    ):
        assert part in told
