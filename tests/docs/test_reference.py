"""Every public name is explained in the reference, once."""

from __future__ import annotations

import re
from typing import Final

import pytest
from page_tools import ROOT

import macula_trio
import macula_trio.abc
import macula_trio.errors
import macula_trio.testing
import macula_trio.wire

PAGES: Final = sorted((ROOT / "docs" / "reference").glob("*.md"))
EXPLAINED: Final = [
    name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
]
PUBLIC: Final = {
    f"{face.__name__}.{name}": getattr(face, name)
    for face in (macula_trio, macula_trio.abc, macula_trio.errors, macula_trio.testing, macula_trio.wire)
    for name in face.__all__
}
FIXTURES: Final = "macula_trio.testing.pytest_plugin."


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_explained_once(name: str) -> None:
    same = {other for other, thing in PUBLIC.items() if thing is PUBLIC[name]} if callable(PUBLIC[name]) else {name}
    assert len([other for other in EXPLAINED if other in same]) == 1


def test_nothing_else_is_explained_but_the_fixtures() -> None:
    assert {name for name in EXPLAINED if name not in PUBLIC and not name.startswith(FIXTURES)} == set()
    assert {name.removeprefix(FIXTURES) for name in EXPLAINED if name.startswith(FIXTURES)} == {
        "open_mesh",
        "sim_network",
        "scenario_world",
        "macula_seed",
    }
