"""The status page in a real browser: what a person sees and can do, in all states, and what messages cannot do."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import depth, put, take
from browsers import PACKAGES, SECONDS, Browser, find_browser, opened
from deaths import bury, death_headers, declare, task_headers
from page_server import NOWHERE, PageServer, page_server
from page_states import STATES, Told, full, quiet
from ports import free_port
from pydantic import SecretStr
from waiting import wait_until

from broker_app.broker.pauses import paused_queues
from broker_app.metrics.reader import MetricTotals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp
    from broker_app.monitoring.collector import Snapshot

TOKEN = "correct horse battery"
NASTY = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PHONE, DESK = 390, 1280

_OVERLAPS = """
  const found = [];
  const box = (one) => {
    const all = document.createRange();
    all.selectNodeContents(one);
    return all.getBoundingClientRect();
  };
  for (const row of document.querySelectorAll("#queues article")) {
    const words = ".label, .top, .rate, .wait, .objective, .figure, .word, h2, .reasons li";
    const texts = [...row.querySelectorAll(words)]
      .filter((one) => one.textContent && one.getClientRects().length).map((one) => [one.textContent, box(one)]);
    texts.forEach(([one, a], index) => texts.slice(index + 1).forEach(([other, b]) => {
      const isBeside = a.right <= b.left + 1 || b.right <= a.left + 1;
      if (!isBeside && a.bottom > b.top + 4 && b.bottom > a.top + 4) found.push(`${one} / ${other}`);
    }));
  }
  return found;
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser. Without one these tests are skipped, but not in CI."""
    found = find_browser()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no browser; apt-get install {PACKAGES}")
        pytest.skip(f"there is no browser; apt-get install {PACKAGES}")
    with opened(found, tmp_path_factory.mktemp("browser")) as window:
        yield window


def rows(browser: Browser) -> list[str]:
    """Return the queues, from above."""
    return [str(row.get_attribute("data-queue")) for row in browser.all("#queues article")]


def look(browser: Browser, server: PageServer, selector: str = "#queues article") -> None:
    """Open the page and wait until it has something to show."""
    browser.complaints()  # those of before
    browser.shape(DESK, 900)
    browser.open(server.url)
    browser.wait_for(selector)


def open_letters(browser: Browser, queue: str) -> None:
    """Open the dead letters of a queue, and all of them."""
    browser.press(f'[data-queue="{queue}"] button.dead')
    browser.wait_for("#letters details")
    browser.run("document.querySelectorAll('#letters details').forEach((one) => { one.open = true; })")


def unlock(browser: Browser, token: str) -> None:
    """Give the page a token."""
    if not browser.all("#key[open]"):
        browser.press("#unlock")
    field = browser.wait_for("#key input")
    field.clear()
    field.send_keys(token)
    browser.press("#key button[type=submit]")


def bury_raw(app: BrokerApp, body: bytes, **headers: str) -> None:
    """Put something into the dead letters of `default` that no worker would."""
    with app.connection_for_write() as connection:
        message = amqp.Message(body, application_headers=headers, delivery_mode=2)
        put(connection.default_channel, message, "", "default.dead")
        connection.default_channel.queue_declare("default.dead", passive=True)


# Reading


@pytest.mark.parametrize("state", STATES)
def test_every_state_fits_every_screen(browser: Browser, tmp_path: Path, state: str) -> None:
    """Full, empty and broken, light and dark: nothing is cut off on a phone, and nothing comes from elsewhere."""
    with page_server(tmp_path, STATES[state]) as server:
        look(browser, server)
        for width, is_dark in itertools.product((PHONE, 800, DESK), (False, True)):
            browser.shape(width, 844, is_dark=is_dark)
            assert browser.run("return document.scrollingElement.scrollWidth") <= width
            ground = browser.run("return getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(18, 19, 21)") == is_dark
        loaded = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert all(address.startswith(f"{server.url}/") for address in loaded)
        assert browser.complaints() == []


def test_the_wait_against_its_objective_is_seen_first(browser: Browser, tmp_path: Path) -> None:
    """A late queue is the headline and the first row, with its wait, its objective, and the reason."""
    with page_server(tmp_path, STATES["full"]) as server:
        look(browser, server)
        assert browser.text("h1") == "lopri is late"
        assert rows(browser) == ["lopri", "mail", "default", "reports"]
        late = browser.text('[data-queue="lopri"]')
        for text in (
            "15\N{EN DASH}30",
            "of 10 min",
            "7,070",
            "1,284",
            "32 of 32",
            "1 of 2 workers of this host are up.",
        ):
            assert text in late, text
        assert browser.text("#scheduled").startswith("Scheduled 2,254")
        assert "lopri+2@worker1\ndown" in browser.text("#nodes")
        assert browser.run("return document.title").startswith("✗ lopri is late")
        assert len(browser.all('[data-queue="lopri"] .chart rect')) > 60


def test_it_updates_itself(browser: Browser, tmp_path: Path) -> None:
    """Without a reload it shows the broker that goes, and the one that comes back, and keeps its rows."""
    told = Told(quiet())
    with page_server(tmp_path, told) as server:
        look(browser, server)
        assert browser.text("h1") == "Every queue with an objective is on time"
        browser.run("window.row = document.querySelector('[data-queue=mail]')")
        told.problem = "127.0.0.1:5672: Connection refused"
        browser.wait_for("h1", "The broker does not answer")
        assert "Connection refused" in browser.text("#summary p")
        told.problem, told.stories = "", full()
        browser.wait_for("h1", "lopri is late")
        assert browser.run("return window.row === document.querySelector('[data-queue=mail]')")


def test_what_is_missing_is_told(browser: Browser, tmp_path: Path) -> None:
    """Without the management API, and with unreadable files, the page names the unknown values and the reason."""

    class Partial(Told):
        """Tells less."""

        def collect(self) -> Snapshot:
            """Return the state without the given parts."""
            found = super().collect()
            broker = replace(found.broker, has_management=False, backlog=None, parked=3, problem=f"401 {NASTY}")
            return replace(
                found, broker=broker, reading=MetricTotals(unreadable=2, problem="/x: Permission denied")
            )

    with page_server(tmp_path, Partial(full())) as server:
        look(browser, server)
        told = "\n".join(one.text for one in browser.all("#notices .notice"))
        for words in (f"401 {NASTY}", "/x: Permission denied", "metrics files: 2", "no longer exists: 3"):
            assert words in told, words
        assert browser.text("#scheduled").startswith("Scheduled unknown")
        assert browser.complaints() == []


def test_it_is_opened_with_a_password(browser: Browser, tmp_path: Path) -> None:
    """With the user and the password in the address the page is there, and its figures too."""
    with page_server(tmp_path, Told(full()), username="ops", password=SecretStr("s3cr3t")) as server:
        look(browser, PageServer(server.url.replace("//", "//ops:s3cr3t@"), server.app, server.page))
        assert browser.text("h1") == "lopri is late"
        assert browser.complaints() == []


def test_a_server_that_goes_is_told_and_found_again(browser: Browser, tmp_path: Path) -> None:
    """While the page's server is away the page says so and of when its figures are; then it goes on."""
    port = free_port()
    with page_server(tmp_path / "before", Told(quiet()), port=port) as server:
        look(browser, server)
    browser.wait_for(".notice", "This page's server does not answer")
    assert "The figures are from" in browser.text(".notice")
    assert browser.run("return document.body.classList.contains('stale')")
    with page_server(tmp_path / "after", Told(full()), port=port):
        browser.wait_for("h1", "lopri is late")
        assert not browser.run("return document.body.classList.contains('stale')")
        assert browser.all(".notice") == []


# The content of messages


@pytest.fixture
def served(tmp_path: Path, fresh_vhost_url: str) -> Iterator[PageServer]:
    """Return a page with a broker and a token; it counts four dead letters of `default`."""
    with page_server(tmp_path, Told(full()), url=fresh_vhost_url, actions_token=SecretStr(TOKEN)) as server:
        declare(server.app)
        yield server


def test_messages_are_text_and_nothing_else(browser: Browser, served: PageServer) -> None:
    """Markup in names, reasons, arguments and tracebacks is shown as it is, never run; what is long is cut."""
    headers = task_headers(NASTY, NASTY) | {"argsrepr": f"({NASTY}\x1b[2J\u202egpj)", "kwargsrepr": "x" * 5_000}
    dead = death_headers(NASTY)
    dead = {name: NASTY if isinstance(value, str) else value for name, value in dead.items()}
    bury_raw(served.app, b"[]", **(headers | dead))
    bury_raw(served.app, b"<b>" + b"x" * 10_000_000, id="large", task="shop.large")
    bury_raw(served.app, b"\xff\xfe\x00")
    wait_until(lambda: depth(served.app, "default.dead") == 3, SECONDS, "the dead letters")
    look(browser, served)
    open_letters(browser, "default")
    assert len(browser.all("#letters details")) == 3
    text = browser.text("#letters")
    assert text.count(NASTY) >= 4
    assert r"\x1b[2J\u202egpj" in text
    assert "<b>xxx" in text
    assert len(text) < 10_000
    assert browser.all("#letters img, #letters script, #letters b") == []
    assert browser.run("return window.hacked === undefined")
    assert depth(served.app, "default.dead") == 3
    for width in (PHONE, DESK):
        browser.shape(width, 844)
        assert browser.run("return document.querySelector('#letters').scrollWidth") <= width
    assert browser.complaints() == []


def test_looking_consumes_nothing(browser: Browser, served: PageServer) -> None:
    """Dead letters are shown in their order with reason and traceback, at first ten, and stay where they are."""
    ids = bury(served.app, 60)
    look(browser, served)
    open_letters(browser, "default")
    shown = browser.text("#letters")
    assert "failed" in shown
    assert "ValueError: no such order" in shown
    assert "Traceback …" in shown
    assert [identity in shown for identity in ids[:11]] == [True] * 10 + [False]
    browser.press("#letters .tools button", "Show 50")
    wait_until(lambda: len(browser.all("#letters details")) == 50, SECONDS, "fifty letters")
    assert [message.headers["id"] for message in take(served.app, "default.dead")] == ids


# Actions


def test_without_the_token_there_is_nothing_to_press(browser: Browser, served: PageServer) -> None:
    """Without a token dead letters can only be read; a wrong token is refused at once."""
    bury(served.app, 1)
    look(browser, served)
    open_letters(browser, "default")
    assert [one.text for one in browser.all("#letters button") if one.is_displayed()] == ["Close"]
    browser.press("#letters .close")
    unlock(browser, "a wrong token, long enough")
    browser.wait_for("#key .said", "the token is wrong")
    unlock(browser, TOKEN)
    wait_until(lambda: not browser.all("#key[open]"), SECONDS, "the dialog to close")
    open_letters(browser, "default")
    browser.wait_for("#letters details button", "Replay")


def test_replay_and_discard(browser: Browser, served: PageServer) -> None:
    """One letter is replayed, another discarded after a second press, the rest replayed together; each once."""
    first, second, third, fourth = bury(served.app, 4)
    look(browser, served)
    unlock(browser, TOKEN)
    wait_until(lambda: not browser.all("#key[open]"), SECONDS, "the dialog to close")
    open_letters(browser, "default")
    browser.press("#letters details:nth-of-type(1) button", "Replay")
    browser.wait_for("#letters .said", "1 replayed")
    wait_until(lambda: len(browser.all("#letters details")) == 3, SECONDS, "three letters")
    browser.run("document.querySelector('#letters details').open = true")
    browser.press("#letters details:nth-of-type(1) button", "Discard")
    assert depth(served.app, "default.dead") == 3
    browser.press_twice("#letters details:nth-of-type(1) button", "Discard", "Discard for good?")
    browser.wait_for("#letters .said", "1 discarded")
    browser.press_twice("#letters > .tools button", "Replay all", "Replay all?")
    browser.wait_for("#letters .said", "2 replayed")
    browser.wait_for("#letters .empty")
    sent = [message.headers["id"] for message in take(served.app, "default")]
    assert sent == [first, third, fourth]
    assert second not in sent
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, PHONE, 600, 1000, DESK])
def test_no_label_is_on_another(browser: Browser, tmp_path: Path, width: int) -> None:
    """On every screen the words of a queue's row are side by side."""
    with page_server(tmp_path, STATES["full"]) as server:
        look(browser, server)
        browser.shape(width, 900)
        browser.open(server.url)
        browser.wait_for("#queues article")
        assert browser.run(_OVERLAPS) == []


def test_pause_and_resume(browser: Browser, tmp_path: Path, fresh_vhost_url: str) -> None:
    """A queue is paused on all hosts after a second press, is shown as paused, and resumed by one."""
    told = Told(full())
    with page_server(tmp_path, told, url=fresh_vhost_url, actions_token=SecretStr(TOKEN)) as server:
        look(browser, server)
        assert not [one for one in browser.all(".buttons button") if one.is_displayed()]
        unlock(browser, TOKEN)
        browser.press_twice('[data-queue="mail"] .buttons button', "Pause", "Pause on all hosts?")
        wait_until(lambda: paused_queues(server.app) == {"mail"}, SECONDS, "the pause")
        told.paused = frozenset({"mail"})
        browser.wait_for('[data-queue="mail"] .word', "paused")
        browser.press('[data-queue="mail"] .buttons button', "Resume")
        wait_until(lambda: paused_queues(server.app) == frozenset(), SECONDS, "the end of the pause")


def test_a_letter_that_is_gone_is_told(browser: Browser, served: PageServer) -> None:
    """If a dead letter was already taken, its replay says that it is not there any more."""
    bury(served.app, 1)
    look(browser, served)
    unlock(browser, TOKEN)
    open_letters(browser, "default")
    take(served.app, "default.dead")
    browser.press("#letters details button", "Replay")
    browser.wait_for("#letters .said", "it is not there any more")


def test_without_a_broker_letters_say_so(browser: Browser, tmp_path: Path) -> None:
    """Dead letters that are not readable are replaced by a sentence."""
    with page_server(tmp_path, Told(full()), url=NOWHERE) as server:
        look(browser, server)
        browser.press('[data-queue="default"] button.dead')
        browser.wait_for("#letters .notice", "Not read: ")


def test_a_page_of_another_site_cannot_read_or_act(browser: Browser, served: PageServer, tmp_path: Path) -> None:
    """From another origin in the same browser neither figures nor letters can be read, and nothing can be done."""
    bury(served.app, 1)
    with page_server(tmp_path / "other", Told(quiet())) as other:
        port = other.url.rpartition(":")[2]
        browser.open(f"http://localhost:{port}/status.json")
        script = """
            const [url, token, done] = arguments;
            const headers = {"X-Actions-Token": token, "Content-Type": "application/json"};
            const body = JSON.stringify({queue: "default", all: true});
            const tries = [
              fetch(url + "/status.json"),
              fetch(url + "/dead-letters.json?queue=default"),
              fetch(url + "/actions/discard", {method: "POST", headers, body}),
              fetch(url + "/actions/discard", {method: "POST", mode: "no-cors", body}).then((a) => a.text()),
            ];
            Promise.all(tries.map((one) => one.then(String, (error) => error.name))).then(done);
        """
        found = browser.driver.execute_async_script(script, served.url, TOKEN)
    assert json.dumps(found).count("TypeError") >= 3
    assert depth(served.app, "default.dead") == 1
