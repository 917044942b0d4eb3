"""What people write on the command line, and what the network shows them."""

from __future__ import annotations

import json

import pytest

from macula_trio import NodeId, dht_key
from macula_trio._cli.options import read_key, read_value
from macula_trio._cli.output import json_text, one_line, plain, print_table


def test_a_key_is_64_hexadecimal_digits_or_the_hash_of_a_name() -> None:
    assert read_key("ab" * 32) == b"\xab" * 32
    assert read_key("math.add") == dht_key("math.add")
    assert read_key("name:math.add") == dht_key("math.add")
    assert read_key("name:" + "ab" * 32) == dht_key("ab" * 32)
    assert read_key("x" * 64) == dht_key("x" * 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ("[1]", {"value": [1]}), ("23.5", {"value": 23.5}), ("some text", {"value": "some text"})],
)
def test_a_value_is_a_json_object_or_gets_a_name(text: str, value: object) -> None:
    assert read_value(text) == value


def test_bytes_are_shown_as_text_or_base64() -> None:
    shown = plain({"id": NodeId(b"\xab" * 32), "text": "ä".encode(), "raw": b"\xff", "many": (b"a", 1, None)})
    assert shown == {"id": "ab" * 32, "text": "ä", "raw": {"base64": "/w=="}, "many": ["a", 1, None]}


def test_a_terminal_never_meets_control_characters_of_the_network() -> None:
    nasty = "\x1b]0;owned\x07\x9b2J\x7f"
    for shown in (json_text({"text": nasty}), one_line(nasty)):
        assert all(character.isprintable() for character in shown)
    assert json.loads(json_text(nasty)) == nasty


def test_a_table_keeps_controls_out_and_fits_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "value"], [["a\x1b[31m\x9b2J", "word " * 40]])
    shown = capsys.readouterr().out
    assert all(character.isprintable() for character in shown if character != "\n")
    assert max(map(len, shown.splitlines())) <= 80
