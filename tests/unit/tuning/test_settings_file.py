"""Writing a recommendation into the settings file."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from documents import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_app.errors import SettingsError
from broker_app.settings import load_settings
from broker_app.tuning.settings_file import apply_fleet, with_fleet

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = (ROOT / "config" / "broker.toml").read_text(encoding="utf-8")


def test_two_values_change_and_nothing_else() -> None:
    """In the shipped file two lines differ afterwards, and their comments stand where they stood."""
    edited = with_fleet(SHIPPED, "default", "gevent", 120)

    changed = [
        (old, new) for old, new in zip(SHIPPED.splitlines(), edited.splitlines(), strict=True) if old != new
    ]
    assert [new.split("#")[0].rstrip() for _, new in changed] == ['pool = "gevent"', "concurrency = 120"]
    assert all(new.index("#") == old.index("#") for old, new in changed)
    assert all(new.split("#")[1] == old.split("#")[1] for old, new in changed)


@settings(max_examples=30)
@given(
    st.integers(1, 10_000),
    st.sampled_from(["threads", "gevent", "prefork"]),
    st.sampled_from(["default", "lopri"]),
)
def test_what_was_written_is_what_is_read(slots: int, pool: str, queue: str) -> None:
    """Whatever is recommended, the file is TOML that says so."""
    fleet = tomllib.loads(with_fleet(SHIPPED, queue, pool, slots))["queues"][queue]["fleet"]

    assert (fleet["pool"], fleet["concurrency"]) == (pool, slots)


@pytest.mark.parametrize(
    "text",
    [
        "[queues.lopri]\n",
        "[queues.lopri]\nprefetch = 2  # few\n[queues.lopri.fleet]  # ours\nnodes = 3",
        '[queues."lopri"]\n[ queues . "lopri" . fleet ]\npool = \'solo\'\nconcurrency = 1\n[fetch]\n',
        "[queues.lopri]\r\n# two\r\n[queues.lopri.fleet]\r\nconcurrency=4# four\r\n",
    ],
)
def test_other_ways_to_write_the_table(text: str) -> None:
    """A missing table or key is added, quotes and spaces do not matter, and line ends stay as they are."""
    edited = with_fleet(text, "lopri", "gevent", 50)

    fleet = tomllib.loads(edited)["queues"]["lopri"]["fleet"]
    assert (fleet["pool"], fleet["concurrency"]) == ("gevent", 50)
    assert ("\r\n" in text) == ("\r\n" in edited)
    assert edited.count("\n") == edited.count("\r\n") or "\r" not in edited
    assert all(comment in edited for comment in ("# few", "# ours", "# two", "# four") if comment in text)


@pytest.mark.parametrize(
    "text",
    [
        "[queues.lopri]\nfleet = { pool = 'threads' }\n",
        "[queues]\nlopri.fleet.concurrency = 3\n",
        "[queues.default]\n",
        "prefix = 'a.'\n",
        "[queues.lopri\n",
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    """An inline table, dotted keys, an undeclared queue, a broken file: the lines to write are printed."""
    file = tmp_path / "broker.toml"
    file.write_text(text)

    with pytest.raises(
        SettingsError, match=r'write \[queues.lopri.fleet\] pool = "gevent", concurrency = 50 yours'
    ):
        apply_fleet(file, "lopri", "gevent", 50)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    """A file that only its owner may read stays so, and a link stays one; the settings load."""
    file, link = tmp_path / "real.toml", tmp_path / "broker.toml"
    file.write_text(SHIPPED)
    file.chmod(0o600)
    link.symlink_to(file)

    apply_fleet(link, "lopri", "gevent", 77)

    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_settings(link).queues["lopri"].fleet.concurrency == 77
