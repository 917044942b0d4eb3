"""What the commands print: plain text that survives a pipe, colours only on a terminal, JSON for programs.

What comes from the network is never trusted by the terminal: control characters are escaped.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from macula_trio import NodeId

ID_DIGITS: Final = 16  # of a node id in a table of 80 columns; --json has all 64
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def one_line(text: str) -> str:
    """Join the lines of a message, and escape what a terminal would obey."""
    return " ".join(text.split()).translate(_CONTROLS)


def plain(value: object) -> object:
    """Make a value from the network JSON-able: bytes become text, or ``{"base64": ...}`` when they are none."""
    if isinstance(value, NodeId):
        return value.hex()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def json_text(value: object) -> str:
    """Write a value from the network for people: JSON in one line, umlauts as they are."""
    return json.dumps(plain(value), ensure_ascii=False).translate(_CONTROLS)


def print_json(value: object) -> None:
    """Write one JSON object as one line to stdout, now."""
    click.echo(json.dumps(plain(value)))


def say(text: str, *, bold: bool = False, dim: bool = False, stderr: bool = False) -> None:
    """Write one line for people, now."""
    click.secho(text, bold=bold or None, dim=dim or None, err=stderr, color=False if "NO_COLOR" in os.environ else None)


def note(text: str) -> None:
    """Say something beside the result: on stderr."""
    say(text, dim=True, stderr=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table for people, as wide as the terminal, or 80 columns."""
    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:  # rich ends the program itself when a pipe breaks under it
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def milliseconds(seconds: float) -> str:
    """Write a short duration."""
    return f"{seconds * 1000:.1f} ms"


def count(number: int, noun: str) -> str:
    """Write ``1 hop``, ``2 hops``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
