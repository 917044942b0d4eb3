"""Draws docs/design/layers.svg from the table in pyproject.toml: ``python tests/docs/layer_picture.py``.

Nothing in it is fetched from anywhere, and it says itself how it looks in the dark.
"""

from __future__ import annotations

import html
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "docs" / "design" / "layers.svg"

# What a layer may do; its files are those of the table.
RULES: Final = {
    "L6": "uses the library as anybody would",
    "face": "re-exports, and nothing else",
    "L5": "composes the others; owns clock and randomness",
    "L4": "services: talk to peers through links, never to each other",
    "L3": "connections to peers",
    "L2": "sockets, tasks and files",
    "L1": "cores: facts and now in, decisions out",
    "L0": "words that all share: no I/O, no clock, no randomness",
}
WIDTH: Final = 720
LEFT: Final = 64
LINE: Final = 19
CHARACTERS_MAX: Final = 76  # of file names in one line
GAP: Final = 22  # between boxes, for the arrow

STYLE: Final = """
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #333 }
.rule { font: 600 14px system-ui, sans-serif; fill: #111 }
.layer { font: 600 15px system-ui, sans-serif; fill: #5c6bc0 } /* on the page's ground, light or dark */
rect { fill: #f3f4fb; stroke: #7986cb }
path { fill: none; stroke: #7986cb; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #ccc } .rule { fill: #eee }
  rect { fill: #23252f; stroke: #5c6bc0 } path { stroke: #5c6bc0 }
}
"""


def layers() -> dict[str, list[str]]:
    """The table, from the lowest layer to the highest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table: dict[str, list[str]] = project["tool"]["macula-trio"]["layers"]
    return table


def places(patterns: list[str]) -> list[str]:
    """Files of a layer, those of one directory told together."""
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        directory, slash, name = pattern.rpartition("/")
        found.setdefault(directory + slash, []).append(name.removesuffix(".py"))
    return [
        directory if names == ["*"] else f"{directory}{{{', '.join(names)}}}" if directory else ", ".join(names)
        for directory, names in found.items()
    ]


def wrapped(words: list[str]) -> list[str]:
    """Lines of at most so many characters."""
    lines = [""]
    for word in " ".join(words).split():
        if len(lines[-1]) + len(word) + 1 > CHARACTERS_MAX:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw() -> str:
    """The picture, as SVG."""
    parts, top = [], 8
    for position, (layer, rule) in enumerate(RULES.items()):
        lines = wrapped(places(layers()[layer]))
        height = LINE * (len(lines) + 1) + 16
        if position:
            middle = WIDTH // 2
            parts.append(f'<path d="M{middle} {top - GAP + 3} V{top - 4} m-5 -6 l5 6 l5 -6"/>')
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 8}" height="{height}" rx="6"/>')
        parts.append(f'<text class="layer" x="12" y="{top + LINE + 4}">{layer}</text>')
        parts.append(f'<text class="rule" x="{LEFT + 14}" y="{top + LINE + 4}">{html.escape(rule)}</text>')
        parts += [
            f'<text x="{LEFT + 14}" y="{top + LINE * (number + 2) + 4}">{html.escape(line)}</text>'
            for number, line in enumerate(lines)
        ]
        top += height + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - GAP + 8}" role="img">'
    title = "<title>The layers, from what uses the library down to words that all share; imports go down</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
