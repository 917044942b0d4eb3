"""Every name of ours on the page for people from v0.8 exists, and every variable that a node reads is on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs
import click
import pytest
from page_tools import read

import macula_trio as macula
from macula_trio import wire
from macula_trio._cli.commands import cli
from macula_trio._cli.settings import SETTINGS

TEXT: Final = read("docs/coming-from-macula.md")
VARIABLES: Final = {setting.variable for setting in SETTINGS}
OLD_VARIABLES: Final = {"MACULA_REALM", *(setting.old.name for setting in SETTINGS if setting.old is not None)}
FLAGS: Final = {setting.flag for setting in SETTINGS if setting.flag is not None}
PATHS: Final = {"/health", "/ready"}
# Words in the columns of ours that are no names: of v0.8, of patterns, of values, of messages between the tables.
WORDS: Final = {"*", "**", "#", "async for", "https://", "verify, none", "hybrid", "gateway", "NODE_HOST"}
# What a name in lower case begins with.
OBJECTS: Final[dict[str, Any]] = {"node": macula.Node, "wire": wire}


def rows() -> Iterator[list[str]]:
    for line in TEXT.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def ours() -> list[str]:
    """Code in the columns that speak of us."""
    cells = [cell for row in rows() for cell in row[1:]]
    return list(dict.fromkeys(word for cell in cells for word in re.findall(r"`([^`]+)`", cell) if word not in WORDS))


def fields(where: object) -> set[str]:
    """What may stand in the brackets behind a name, as a keyword."""
    if isinstance(where, type) and attrs.has(where):
        return {field.name.lstrip("_") for field in attrs.fields(where)}
    assert callable(where)
    return set(inspect.signature(where).parameters)


def attributes(where: object) -> set[str]:
    named = {field.name for field in attrs.fields(where)} if isinstance(where, type) and attrs.has(where) else set()
    return named | set(dir(where))


def find(name: str) -> object:
    first, *rest = name.split(".")
    found = OBJECTS[first] if first in OBJECTS else getattr(macula, first)
    for part in rest:
        assert part in attributes(found), name
        found = getattr(found, part, None)
    return found


@pytest.mark.parametrize("word", ours())
def test_a_name_of_ours_exists(word: str) -> None:
    if word.startswith("--"):
        assert word in FLAGS
    elif word.startswith("/"):
        assert word in PATHS
    elif word.startswith("macula-trio "):
        assert isinstance(cli, click.Group)
        assert word.split()[1] in cli.commands
    elif word == "macula_trio.wire":
        assert wire.__name__ == word
    elif word.isupper():
        assert word in VARIABLES
    else:
        name, _, inside = word.partition("(")
        found = find(name)
        keywords = set(re.findall(r"(\w+)=", inside))
        assert not keywords or keywords <= fields(found)


def test_between_the_tables_as_well() -> None:
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith("|"))
    for name in re.findall(r"`((?:Trust|Call|Message|node|macula)\.[a-z_.]+)", prose):
        find(name.removeprefix("macula."))
    assert set(re.findall(r"`(--[a-z-]+)", prose)) <= FLAGS


def test_every_variable_is_on_the_page() -> None:
    named = set(re.findall(r"`([A-Z_]+)`", TEXT))
    assert named >= VARIABLES | OLD_VARIABLES
    assert named - VARIABLES - OLD_VARIABLES <= {"NODE_HOST"}


def test_each_variable_of_v08_stands_beside_ours() -> None:
    beside = {row[0].strip("`"): row[1] for row in rows()}
    for setting in SETTINGS:
        if setting.old is not None:
            assert f"`{setting.variable}`" in beside[setting.old.name]
            assert f"`{setting.flag}`" in beside[setting.old.name]


def test_there_are_many() -> None:
    assert len(ours()) > 60
