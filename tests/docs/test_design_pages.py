"""The files that pages name by their place in the package are there."""

from __future__ import annotations

import re
from typing import Final

import pytest
from page_tools import ROOT, read

PACKAGE: Final = ROOT / "src" / "macula_trio"
NAMED: Final = [
    (page, name)
    for page in sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    for name in dict.fromkeys(re.findall(r"`(_[a-z0-9_/]+\.py)`", read(page)))
]


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_a_file_that_a_page_names_is_there(page: str, name: str) -> None:
    assert (PACKAGE / name).is_file(), f"{page} names {name}"


def test_they_name_many() -> None:
    assert len(NAMED) > 30
