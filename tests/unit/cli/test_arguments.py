"""The words of a command line as values: JSON, text and refusals."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app.cli.arguments import parse_argument, parse_keyword, parse_keywords
from broker_app.errors import CallError


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2", 2),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ('"2"', "2"),
        ("hello", "hello"),
        ("http://127.0.0.1:8000/?q=1&x=[2]", "http://127.0.0.1:8000/?q=1&x=[2]"),
        ("2030-01-31", "2030-01-31"),
        ("127.0.0.1", "127.0.0.1"),
        ("-", "-"),
        ("", ""),
        ("grün", "grün"),
    ],
)
def test_words(word: str, value: Any) -> None:
    """A word that is JSON is that value; any other word, such as a URL, is a text."""
    assert parse_argument(word) == value
    assert type(parse_argument(word)) is type(value)


@pytest.mark.parametrize(
    "word", ["[1, 2", '{"a": 1', '"a', "True", "False", "None", ".5", "1.", "01", "+1", "1_000", "nan"]
)
def test_what_was_meant_as_a_value_is_not_sent_as_a_text(word: str) -> None:
    """Broken JSON, Python's constants and near-numbers are refused, and the line shows how to send that text."""
    with pytest.raises(CallError) as caught:
        parse_argument(word)
    [_, written] = shlex.split(str(caught.value).partition("for a string ")[2])
    assert parse_argument(written) == word


@given(st.text())
def test_every_text_can_be_written(text: str) -> None:
    """A JSON text always arrives as it is."""
    assert parse_argument(json.dumps(text)) == text


@pytest.mark.parametrize("word", ["[" * 100_000, "9" * 5_000])
def test_hostile_words_are_refused(word: str) -> None:
    """Values that Python has no room for are refused in a short line."""
    with pytest.raises(CallError) as caught:
        parse_argument(word)
    assert len(str(caught.value)) < 250


def test_keywords() -> None:
    """NAME=VALUE reads its value as an argument; a second = belongs to the value."""
    assert parse_keyword("x=2") == ("x", 2)
    assert parse_keyword("url=http://127.0.0.1/?a=b") == ("url", "http://127.0.0.1/?a=b")
    assert parse_keywords('{"x": 2}') == {"x": 2}


@pytest.mark.parametrize("word", ["x", "=2", "a b=2", "2=2"])
def test_keywords_without_a_name_are_refused(word: str) -> None:
    """A keyword without a name or a value is refused."""
    with pytest.raises(CallError, match="expected name=value"):
        parse_keyword(word)


@pytest.mark.parametrize("text", ["[1]", "x=1", '{"x":', "3"])
def test_keywords_are_one_object(text: str) -> None:
    """--kwargs takes a JSON object and nothing else."""
    with pytest.raises(CallError, match="expected a JSON object"):
        parse_keywords(text)
