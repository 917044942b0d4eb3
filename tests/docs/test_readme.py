"""What the README shows works: its program, its commands, and the links of all pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest
from page_tools import ROOT, blocks, read

from macula_trio._cli.commands import cli

PAGE: Final = "README.md"
LINES_MAX: Final = 130  # it is read at first sight, or not at all
EXAMPLE_LINES_MAX: Final = 20  # those with something in them


def example() -> str:
    (program,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    return program


@pytest.mark.processes
def test_the_example_prints_what_is_shown_below_it(tmp_path: Path) -> None:
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "text"]
    (tmp_path / "example.py").write_text(example(), encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_it_is_short() -> None:
    assert len(read(PAGE).splitlines()) <= LINES_MAX
    assert sum(map(bool, example().splitlines())) <= EXAMPLE_LINES_MAX


def commands() -> list[str]:
    text = "".join(block.text for block in blocks(PAGE) if block.language == "sh" and "ci:" not in block.note)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("macula-trio ")]


@pytest.mark.parametrize("line", commands())
def test_a_command_is_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    assert cli.commands[name].make_context(name, arguments)


def test_every_command_is_named() -> None:
    assert len(commands()) == 3
    assert isinstance(cli, click.Group)
    named = set(re.findall(r"`([a-z]+)`|^macula-trio ([a-z]+)", read(PAGE), re.MULTILINE))
    assert set(cli.commands) <= {name for pair in named for name in pair}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_links_between_files_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)):
        assert (ROOT / page).parent.joinpath(target).is_file(), target
