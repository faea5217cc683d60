"""The app's configuration: whose value wins, and that no thread sees half of it."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from broker_app import BrokerApp
from broker_app.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

FROM_SETTINGS = "amqp://from:settings@127.0.0.1:1//"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a settings file with a broker that is not the default."""
    file = tmp_path / "shop.toml"
    file.write_text(f"broker_url = '{FROM_SETTINGS}'\nstate_dir = '{tmp_path}'\n", encoding="utf-8")
    return file


def _app(config: Path, **options: str) -> BrokerApp:
    return BrokerApp("shop", config=config, set_as_current=False, **options)


def test_what_the_user_configures_wins_over_what_follows_from_the_settings(config: Path) -> None:
    """By argument, by `app.conf`, by an object, by defaults of one's own; all else stays ours."""
    apps = [_app(config, broker="amqp://user//"), *(_app(config) for _ in range(5))]
    apps[1].conf.broker_url = "amqp://user//"
    apps[2].config_from_object({"broker_url": "amqp://user//"})
    apps[3].config_from_object({"BROKER_URL": "amqp://user//"})
    apps[4].config_from_object({"CELERY_BROKER_URL": "amqp://user//"}, namespace="CELERY")
    apps[5].add_defaults({"broker_url": "amqp://user//"})
    for app in apps:
        assert app.conf.broker_url == "amqp://user//"
        assert app.conf.task_acks_late is True
    assert _app(config).conf.broker_url == FROM_SETTINGS


def test_configuring_an_app_that_was_used_keeps_our_values(config: Path) -> None:
    """Celery rereads its configuration then, and has used up its defaults."""
    app = _app(config)
    assert app.conf.broker_url == FROM_SETTINGS
    app.config_from_object({"result_expires": 5})
    assert (app.conf.result_expires, app.conf.broker_url) == (5, FROM_SETTINGS)
    assert app.conf.task_acks_late is True


def test_no_thread_sees_half_a_configuration(config: Path) -> None:
    """The first use of an app may come from many threads at once, as in a web server: all see the same broker."""
    for _ in range(5):
        app, start = _app(config), threading.Barrier(8)

        def use(app: BrokerApp = app, start: threading.Barrier = start) -> tuple[object, ...]:
            start.wait(60)
            conf = app.conf
            return conf.broker_url, conf.result_backend, conf.task_default_queue, type(app.backend).__name__

        with ThreadPoolExecutor(8) as pool:
            seen = {future.result() for future in [pool.submit(use) for _ in range(8)]}
        assert len(seen) == 1
        assert next(iter(seen))[0] == FROM_SETTINGS


def test_a_broken_settings_file_is_told_each_time(config: Path) -> None:
    """Not only to who asked first: no later use goes on with Celery's own defaults."""
    config.write_text("prefx = 1\n", encoding="utf-8")
    app = _app(config)
    for _ in range(2):
        with pytest.raises(SettingsError):
            _ = app.conf.broker_url
    config.write_text(f"broker_url = '{FROM_SETTINGS}'\n", encoding="utf-8")
    assert app.conf.broker_url == FROM_SETTINGS


def test_an_app_keeps_its_settings_file_when_it_is_pickled(config: Path) -> None:
    """As it is on its way to another process."""
    back = pickle.loads(pickle.dumps(_app(config)))  # noqa: S301 - what was pickled here
    assert back.conf.broker_url == FROM_SETTINGS


def test_remote_control_and_events_carry_the_prefix(config: Path) -> None:
    """Exchanges and queues that Celery makes by itself do too."""
    config.write_text("prefix = 'shop.'\n", encoding="utf-8")
    conf = _app(config).conf
    assert (conf.control_exchange, conf.event_exchange, conf.event_queue_prefix) == (
        "shop.celery",
        "shop.celeryev",
        "shop.celeryev",
    )
