"""Every claim of the page about attackers names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def shown() -> list[tuple[str, str]]:
    """Files and tests that the page names; a test without a file is in the file named before it."""
    found, file = [], ""
    for name in re.findall(r"`([a-z_/]*\.py)?(?:::(test_\w+))?`", PAGE):
        file = name[0] or file
        if file.partition("/")[0] in {"peer", "node", "net", "identity", "integration"}:
            found.append((file, name[1]))
    return found


@pytest.mark.parametrize(("file", "test"), dict.fromkeys(shown()))
def test_what_the_page_names_is_there(file: str, test: str) -> None:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {test or 'test_'}", text, flags=re.MULTILINE)


def test_the_page_names_many() -> None:
    assert len(shown()) > 35


@pytest.mark.parametrize("file", dict.fromkeys(re.findall(r"`(_[a-z]+/[a-z_]+\.py)`", PAGE)))
def test_the_files_with_bounds_have_bounds(file: str) -> None:
    text = (ROOT / "src" / "macula_trio" / file).read_text(encoding="utf-8")
    assert re.search(
        r"^(?:[A-Z_]+_MAX|MAX_[A-Z]+): Final|^[A-Z_]+_PER_(S|MINUTE): Final|^\w*BURST: Final", text, flags=re.MULTILINE
    )
