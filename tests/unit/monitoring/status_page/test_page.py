"""The page's paths: files for the browser, access to the data, and permission to act."""

from __future__ import annotations

import http.client
import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from page_server import PageServer, page_server
from page_states import Told, quiet
from pydantic import SecretStr, ValidationError

from broker_app.errors import SelectionError
from broker_app.monitoring.http_messages import HttpRequest
from broker_app.monitoring.status_page.actions import ActionRequest, parse_queue, parse_wish
from broker_app.monitoring.status_page.guard import TOKEN_HEADER, RequestGuard
from broker_app.monitoring.status_page.page import FILES
from broker_app.settings import MetricsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "correct horse battery"
LOGIN: dict[str, Any] = {"username": "ops", "password": SecretStr("s3cr3t")}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """Return a page with a token, whose broker is not there."""
    with page_server(tmp_path, Told(quiet()), actions_token=SecretStr(TOKEN)) as served:
        yield served


def ask(server: PageServer, path: str, body: Any = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, body and headers; with a body it is a POST."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def guard(**settings: Any) -> RequestGuard:
    """Return a guard of a server with these settings."""
    return RequestGuard(MetricsSettings(**settings))


def request(**headers: str) -> HttpRequest:
    """Return a request with these headers."""
    return HttpRequest(
        "GET", "/status.json", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_the_page_and_its_files_come_from_the_package(server: PageServer) -> None:
    """Each file is there, with a policy that lets nothing in from elsewhere, no frame around it, and no cache."""
    for path in ("/", *(f"/{name}" for name in FILES if name != "page.html")):
        status, body, headers = ask(server, path)
        assert (status, bool(body)) == (200, True), path
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_the_files_name_nothing_outside(server: PageServer) -> None:
    """No file refers to another host, has a script or a style inside, or can make markup of a text."""
    for name in FILES:
        text = ask(server, "/" if name == "page.html" else f"/{name}")[1].replace("http://www.w3.org/2000/svg", "")
        for word in ("://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "<style"):
            assert word not in text, (name, word)
        assert " style=" not in text
        assert " onclick=" not in text


def test_the_figures_are_json(server: PageServer) -> None:
    """/status.json answers while the broker is away, with the queues of the settings."""
    status, body, headers = ask(server, "/status.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [queue["name"] for queue in json.loads(body)["queues"]] == ["default", "mail", "lopri", "reports"]
    assert json.loads(body)["actions"]["is_enabled"] is True


@pytest.mark.parametrize(
    "query", ["", "?queue=nowhere", "?queue=reports", "?queue=mail&limit=0", "?queue=mail&limit=x"]
)
def test_dead_letters_of_what_there_is_not(server: PageServer, query: str) -> None:
    """An unknown queue, one without dead letters, and an invalid limit are refused."""
    status, body, _ = ask(server, f"/dead-letters.json{query}")
    assert (status, "expected a queue" in json.loads(body)["problem"]) == (400, True)


def test_dead_letters_without_a_broker(server: PageServer) -> None:
    """An unreachable broker is a sentence, not an error page."""
    status, body, _ = ask(server, "/dead-letters.json?queue=mail")
    assert status == 503
    assert "127.0.0.1:1" in json.loads(body)["problem"]


def test_a_wrong_token_is_refused_and_logged(server: PageServer, caplog: pytest.LogCaptureFixture) -> None:
    """Without the token, or with another, nothing is done; the log has who it was, and never what was sent."""
    caplog.set_level(logging.WARNING)
    wish = {"queue": "mail", "all": True}
    for headers in ({}, {TOKEN_HEADER: "guessed-guessed"}, {TOKEN_HEADER: "\xff" * 900}, {"X-Actions-Token": ""}):
        for verb in ("check", "replay", "discard", "pause", "resume"):
            status, body, _ = ask(server, f"/actions/{verb}", wish, **headers)
            assert (status, "the token is wrong" in json.loads(body)["problem"]) == (403, True)
    assert "wrong token from 127.0.0.1" in caplog.text
    assert "guessed" not in caplog.text
    assert ask(server, "/actions/check", {}, **{TOKEN_HEADER: TOKEN})[0] == 200
    assert ask(server, "/actions/replay", {"queue": "nowhere", "all": True}, **{TOKEN_HEADER: TOKEN})[0] == 400


def test_actions_are_posts(server: PageServer) -> None:
    """A link cannot act."""
    assert ask(server, "/actions/discard?queue=mail", **{TOKEN_HEADER: TOKEN})[0] == 405


def test_another_site_cannot_act(server: PageServer) -> None:
    """A request of another origin is refused, also with the right token; one of the page's own is not."""
    right = {TOKEN_HEADER: TOKEN}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://evil.example", "Host": "evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert ask(server, "/actions/check", {}, **right, **headers)[0] == 403, headers
    own = {"Origin": server.url, "Sec_Fetch_Site": "same-origin"}
    assert ask(server, "/actions/check", {}, **right, **own)[0] == 200


def test_without_a_token_the_page_only_reads(tmp_path: Path) -> None:
    """Without a configured token every token is wrong."""
    with page_server(tmp_path, Told(quiet())) as server:
        assert json.loads(ask(server, "/status.json")[1])["actions"]["is_enabled"] is False
        for given in ("", "None", TOKEN):
            status, body, _ = ask(server, "/actions/check", {}, **{TOKEN_HEADER: given})
            assert (status, "the page only reads" in json.loads(body)["problem"]) == (403, True)


def test_a_password_guards_the_page(tmp_path: Path) -> None:
    """With a user and a password nothing of the page is open without them."""
    with page_server(tmp_path, Told(quiet()), **LOGIN) as server:
        for path in ("/", "/page.js", "/status.json", "/dead-letters.json?queue=mail"):
            assert ask(server, path)[0] == 401, path


def test_what_messages_hold_is_not_for_the_network() -> None:
    """A server that others reach shows dead letters only with a password or the token."""
    token = SecretStr(TOKEN)
    assert guard().refuses_contents(request()) is None
    assert guard(host="0.0.0.0", **LOGIN).refuses_contents(request()) is None  # noqa: S104 - others reach it
    assert guard(host="0.0.0.0").refuses_contents(request()) is not None  # noqa: S104
    others = guard(host="0.0.0.0", actions_token=token)  # noqa: S104
    assert others.refuses_contents(request()) is not None
    assert others.refuses_contents(request(**{TOKEN_HEADER: TOKEN})) is None
    assert others.refuses_reader(request()) is None


@pytest.mark.parametrize("token", ["short", "x" * 15, "sixteen letters\n", "ü" * 20])
def test_a_token_that_guards_nothing_is_refused(token: str) -> None:
    """A token that can be guessed, or that no header can carry, is no setting; and is not shown."""
    with pytest.raises(ValidationError) as caught:
        MetricsSettings(actions_token=SecretStr(token))
    assert "at least 16 characters" in str(caught.value)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 60_000,
        b"{}",
        b"[]",
        b'{"queue": 1, "all": true}',
        b'{"queue": "a"}',
        b'{"queue": "a", "all": 1}',
        b'{"queue": "a", "ids": []}',
        b'{"queue": "a", "ids": "abc"}',
        b'{"queue": "a", "ids": [""]}',
        b'{"queue": "a", "ids": [1]}',
        b'{"queue": "a", "ids": ["b"], "all": true}',
        b'{"queue": "a", "ids": ["b"], "all": false}',
        b'{"queue": "a", "ids": ["' + b'", "'.join(b"%d" % n for n in range(51)) + b'"]}',
    ],
    ids=lambda body: body[:30].decode(errors="replace"),
)
def test_a_wish_that_cannot_be(body: bytes) -> None:
    """A request that does not name its messages exactly is refused."""
    with pytest.raises(SelectionError, match="expected"):
        parse_wish(body)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"queue": 1}', b'{"queue": "a", "all": true}', b'["queue"]'], ids=str
)
def test_a_queue_that_is_not_named(body: bytes) -> None:
    """To pause and to resume need a queue, and nothing else."""
    assert parse_queue(b'{"queue": "a"}') == "a"
    with pytest.raises(SelectionError, match="expected"):
        parse_queue(body)


def test_a_queue_that_there_is_not_cannot_be_paused(server: PageServer) -> None:
    """The nearest name that there is comes back, and nothing is asked of the broker."""
    status, body, _ = ask(server, "/actions/pause", {"queue": "mial"}, **{TOKEN_HEADER: TOKEN})
    assert status == 400
    assert "mail" in json.loads(body)["problem"]


def test_a_wish_is_bounded() -> None:
    """All of them is a thousand at a time; of letters by their ids as many as there are ids."""
    assert parse_wish(b'{"queue": "a", "all": true}') == ActionRequest("a", None)
    assert parse_wish(b'{"queue": "a", "all": true}').selection.limit == 1_000
    chosen = parse_wish(b'{"queue": "a", "ids": ["x", "y"]}').selection
    assert (chosen.ids, chosen.limit) == (frozenset({"x", "y"}), 2)
