"""Every dependency has its line in docs/design/dependencies.md with a reason, and every line there is a dependency."""

from __future__ import annotations

import re
import tomllib
from typing import Final

import pytest
from page_tools import read

PAGE: Final = "docs/design/dependencies.md"
OF_NOBODY: Final = "-"  # the group of what people install by hand
PROJECT: Final = tomllib.loads(read("pyproject.toml"))


def wanted() -> dict[str, dict[str, str]]:
    """Requirements by group: names, and the lower bound if there is one."""
    project = PROJECT["project"]
    groups = {
        "run time": project["dependencies"],
        "build": PROJECT["build-system"]["requires"],
        **project["optional-dependencies"],
        **PROJECT["dependency-groups"],
    }
    return {
        group: dict(map(_parsed, (entry for entry in requirements if isinstance(entry, str))))
        for group, requirements in groups.items()
    }


def _parsed(requirement: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?(?:>=([0-9.]+))?", requirement)
    assert match is not None
    return match[1].lower(), match[2] or ""


def explained() -> list[tuple[str, str, str]]:
    """Group, cell of the name and reason, line by line."""
    found = []
    for section in re.split(r"^## ", read(PAGE), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].lower()
        for row in re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]:
            cells = row.split(" | ")
            assert len(cells) in {4, 5}, row
            group = cells[0].strip("`") if len(cells) == 5 else title.removeprefix("to ").removeprefix("at ")
            found.append((group, cells[-4].lower(), cells[-1]))
    return found


def _words(cell: str) -> set[str]:
    return set(re.findall(r"[a-z0-9][a-z0-9._-]*", cell.partition("≥")[0]))


NAMES: Final = [(group, name, bound) for group, names in wanted().items() for name, bound in names.items()]


@pytest.mark.parametrize(("group", "name", "bound"), NAMES)
def test_a_dependency_has_its_line(group: str, name: str, bound: str) -> None:
    lines = {of: cell for of, cell, _ in explained() if name in _words(cell)}
    assert lines, f"{name} is not in {PAGE}"
    if group in lines and "≥" in lines[group]:
        assert lines[group].partition("≥")[2].strip() == bound


@pytest.mark.parametrize(("group", "cell", "reason"), explained())
def test_a_line_is_about_a_dependency_and_has_a_reason(group: str, cell: str, reason: str) -> None:
    assert len(reason) > 10
    if group != OF_NOBODY:
        assert _words(cell) & set(wanted()[group]), f"{cell} is not in {group} of pyproject.toml"


def test_there_are_many() -> None:
    assert len(NAMES) > 20
    assert {group for group, _, _ in explained()} - {OF_NOBODY} <= set(wanted())
