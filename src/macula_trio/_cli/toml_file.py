"""A TOML file of settings: read, and the line of each key found again, which `tomllib` does not tell.

`parse` is pure.  The line of a key is where a line begins like it, everything before that line is valid TOML by itself,
and a key that is put there lands at the top level: so neither a text of several lines nor a table deceives.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import attrs
import click

from macula_trio._reading import read_bounded

BYTES_MAX: Final = 64 * 1024  # a thousand bootstrap nodes; what is longer is another kind of file
TRIES_MAX: Final = 20  # places where a key may be that are looked at: each costs reading what is before it
_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@attrs.frozen
class TomlFile:
    """The file of ``--config``.

    Attributes:
      path: as it was named.
      values: of its keys.
      text: all of it.
    """

    path: str
    values: Mapping[str, Any]
    text: str = attrs.field(repr=False)

    def place(self, key: str) -> str:
        """Where a key at the top level is: ``node.toml:3``, or the file alone."""
        line = _find_line(self.text, key)
        return self.path if line is None else f"{self.path}:{line}"

    @property
    def base(self) -> PurePath:
        """What relative paths in it start from: its own directory."""
        return PurePath(self.path).parent


def load_toml(path: str) -> TomlFile:
    """Read a file of settings.

    Raises:
      click.UsageError: it cannot be read, or is no TOML; one line with the file and the line.
    """
    try:
        return parse(path, read_bounded(path, bytes_max=BYTES_MAX))
    except OSError as exc:
        raise click.UsageError(f"--config {path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def parse(path: str, data: bytes) -> TomlFile:
    """Read the contents of a file of settings.

    Raises:
      ValueError: no TOML; one line with the file and the line.
    """
    try:
        text = data.decode("utf-8-sig")  # with the mark that editors of Windows put in front, or without
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save it in that encoding") from None
    text = text.replace("\r\n", "\n")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except ValueError as exc:  # also an integer that is too long for Python
        raise ValueError(_complaint(path, text, str(exc))) from None
    return TomlFile(path, values, text)


def _complaint(path: str, text: str, reason: str) -> str:
    """Put the place in front: ``node.toml:4: ...``."""
    found = _AT.search(reason)
    if found is None:
        return f"{path}: not TOML: {reason}"
    line = found[1] or str(text.rstrip("\n").count("\n") + 1)
    column = f" (column {found[2]})" if found[2] else " (at the end of the file)"
    return f"{path}:{line}: not TOML: {reason[: found.start()]}{column}"


def _find_line(text: str, key: str) -> int | None:
    """The line where a key at the top level begins, if it is among the first `TRIES_MAX` that look like it."""
    lines = text.split("\n")
    probe = "probe"
    while probe in text:
        probe += "_"
    name = f"""(?:{re.escape(key)}|"{re.escape(key)}"|'{re.escape(key)}')"""
    beginning = re.compile(rf"[ \t]*(?:{name}[ \t]*[.=]|(\[\[?)[ \t]*{name}[ \t]*[.\]])")
    tries = 0
    for number, line in enumerate(lines, start=1):
        match = beginning.match(line)
        if match is None:
            continue
        tries += 1
        if tries > TRIES_MAX:
            return None
        if _begins(key, "\n".join(lines[: number - 1]), probe, header=bool(match[1])):
            return number
    return None


def _begins(key: str, before: str, probe: str, *, header: bool) -> bool:
    """Whether a key that is not in ``before`` can follow it, at the top level."""
    try:
        values = tomllib.loads(f"{before}\n{probe} = 0\n")
    except (ValueError, RecursionError):
        return False  # in the midst of something
    return key not in values and (header or probe in values)
