"""A file of settings is read, and the line of each of its keys found, whatever else is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._cli.toml_file import BYTES_MAX, load_toml, parse

KEYS: Final = ("realm", "listen", "bootstrap", "keepalive_s", "trust")
# What stands between keys and in their values looks like keys itself.
NOISE: Final = ("", "   ", "# realm = 1", "#[listen]", "\t# bootstrap.x")
VALUES: Final = (
    "1",
    '"realm = 1"',
    "'''\nrealm = 1\n[listen]\ntrust = 2'''",
    '"""\nlisten = 3\nkeepalive_s = """',
    '[\n  "realm = 1", # listen = 4\n\n  "x",\n]',
    "{ realm = 5, listen = 6 }",
    '"a" # = 7',
    "1979-05-27",
)
WRITTEN: Final = ("{key} = {value}", '"{key}"={value}', "'{key}'\t= {value}", "  {key} = {value}", "{key}.realm = 1")


@st.composite
def files(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A file, and the line of every key at its top level."""
    lines: list[str] = []
    where: dict[str, int] = {}
    keys = draw(st.permutations(KEYS))
    tables = draw(st.integers(0, len(keys)))
    for number, key in enumerate(keys):
        lines += draw(st.lists(st.sampled_from(NOISE), max_size=2))
        where[key] = len(lines) + 1
        if number < tables:
            written = draw(st.sampled_from(WRITTEN)).format(key=key, value=draw(st.sampled_from(VALUES)))
        else:
            written = draw(st.sampled_from(["[{key}]", "[[ {key} ]]", "[{key}.realm]"])).format(key=key)
            written += "".join(f"\n{other} = 0" for other in draw(st.lists(st.sampled_from(KEYS[1:]), unique=True)))
        lines += written.split("\n")
    return draw(st.sampled_from(["\n", "\r\n"])).join([*lines, ""]), where


@given(files())
def test_the_line_of_every_key_is_found(made: tuple[str, dict[str, int]]) -> None:
    text, where = made
    file = parse("node.toml", text.encode())
    assert file.values.keys() == where.keys()
    assert {key: file.place(key) for key in where} == {key: f"node.toml:{line}" for key, line in where.items()}


def test_a_key_that_is_written_in_riddles_has_no_line_and_never_a_wrong_one() -> None:
    file = parse("node.toml", b'"re\\u0061lm" = 1\nlisten = """\nrealm = 2\n"""\n')
    assert file.values["realm"] == 1
    assert file.place("realm") == "node.toml"


def test_a_file_of_nothing_but_riddles_costs_little() -> None:
    lines = b"realm = 1\n" * ((BYTES_MAX - 100) // 10)
    file = parse("node.toml", b'listen = """\n' + lines + b'"""\n"re\\u0061lm" = 1\n')
    assert file.place("realm") == "node.toml"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"realm = \n", "node.toml:1: not TOML: Invalid value"),
        (
            b'realm = "a"\n\nlisten "b"\n',
            "node.toml:3: not TOML: Expected '=' after a key in a",
        ),
        (b'a = 1\nrealm = """\n\n', "node.toml:2: not TOML: Unterminated string"),
        (b"realm = 1\nrealm = 2\n", "node.toml:2: not TOML: Cannot overwrite a value"),
        (b"a = 1\n# \xff\n", "node.toml:2: not UTF-8; save it in that encoding"),
        (b"\x00", "node.toml:1: not TOML: "),
        (b"a = " + b"[" * 30_000, "node.toml: nested too deeply"),
        (b"a = " + b"9" * 5_000, "node.toml: not TOML: Exceeds the limit"),
    ],
    ids=["no value", "no equals", "no end", "twice", "Latin-1", "NUL", "deep", "long number"],
)
def test_what_is_no_toml_is_one_line_with_the_place(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole text is looked at
        parse("node.toml", content)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_the_mark_that_windows_puts_in_front_is_passed_over() -> None:
    assert parse("node.toml", b'\xef\xbb\xbfrealm = "a"').values == {"realm": "a"}


def test_a_file_that_is_too_large_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"#" * (BYTES_MAX + 1))
    for bad, reason in ((path, "bytes are too many"), (tmp_path, "Is a directory"), (tmp_path / "no", "No such file")):
        with pytest.raises(click.UsageError, match=reason):
            load_toml(str(bad))
    path.write_bytes(b"#" * BYTES_MAX)
    assert load_toml(str(path)).values == {}
