"""What the pages in docs/ show: their fenced blocks, in order, and the files that these make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(
    r"^(?P<note><!-- [^\n]*-->\n)?```(?P<language>\w*)(?: title=\"(?P<title>[^\"\n]*)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE: Final = re.compile(r"# (\S+\.\w+)\n")


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block.

    Attributes:
      language: behind the fence.
      title: that the site shows above it; empty if there is none.
      note: the comment in the line before it, without its brackets.
      text: with the newline at its end.
      start: where it stands in the page.
    """

    language: str
    title: str
    note: str
    text: str
    start: int

    @property
    def file(self) -> str:
        """The name of a file, which its first line tells as a comment; empty if it is none."""
        named = _FILE.match(self.text)
        return named[1] if named else ""


def read(page: str) -> str:
    """Text of a file, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    text = read(page)
    found = [
        Block(
            language=match["language"],
            title=match["title"] or "",
            note=(match["note"] or "").removeprefix("<!-- ").removesuffix(" -->\n"),
            text=match["text"],
            start=match.start("language"),
        )
        for match in _BLOCK.finditer(text)
    ]
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), f"{page}: a block that is not understood"
    return found


def files(page: str) -> dict[str, str]:
    """The files of a page, without the lines that name them; blocks of one name make one file."""
    found: dict[str, str] = {}
    for block in blocks(page):
        if block.file:
            text = block.text.partition("\n")[2]
            found[block.file] = f"{found[block.file]}\n\n{text}" if block.file in found else text
    return found
