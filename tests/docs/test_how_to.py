"""The how-to pages do what they say: their files are written out, and run with the installed package alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import page_tools
import pytest
from page_tools import blocks

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

PAGE: Final = "docs/how-to/test-your-application.md"


def files() -> dict[str, str]:
    """The files of the page; blocks of one name make one file."""
    return page_tools.files(PAGE)


def run(directory: Path, written: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on these files, and where nothing of this repository is seen but what is installed."""
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "MACULA", "COVERAGE", "COV_")) and name != "PYTHONPATH"
    }
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_page_has_its_program_its_settings_and_its_tests() -> None:
    assert set(files()) == {"pytest.ini", "thermostat.py", "test_thermostat.py", "test_crash.py"}
    assert all(block.file for block in blocks(PAGE) if block.language in {"python", "ini"})


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    done = run(tmp_path, files())
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = sum(text.count("async def test_") for name, text in files().items() if name.startswith("test_"))
    assert f"{wanted} passed" in done.stdout
    assert f"rootdir: {tmp_path}" in done.stdout


@pytest.mark.long
def test_they_pass_with_marks_instead_of_trio_mode_and_with_other_seeds(tmp_path: Path) -> None:
    marked = {
        name: re.sub(
            r"^async def test_", "@pytest.mark.trio\nasync def test_", f"import pytest\n{text}", flags=re.MULTILINE
        )
        for name, text in files().items()
        if name.startswith("test_")
    }
    written = {**files(), **marked, "pytest.ini": "[pytest]\n"}
    for seed in range(1, 4):
        done = run(tmp_path, written, f"--macula-seed={seed}")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "test", "right", "wrong"),
    [
        ("test_thermostat.py", "test_a_boost_ends_with_the_callers_patience", "not thermostat.boosting", "False"),
        ("test_crash.py", "test_an_order_reaches_a_thermostat_that_was_restarted", "celsius == 18", "celsius == 19"),
    ],
)
def test_a_test_that_fails_tells_its_seed_as_the_page_says(
    tmp_path: Path, name: str, test: str, right: str, wrong: str
) -> None:
    text = files()[name]
    assert right in text
    done = run(tmp_path, {**files(), name: text.replace(right, wrong)})
    assert done.returncode == 1, done.stdout + done.stderr
    told = re.findall(r"^seed (\d+); to repeat: pytest --macula-seed (\d+) (\S+)$", done.stdout, re.MULTILINE)
    assert [(test_id, seed == again) for seed, again, test_id in told] == [(f"{name}::{test}", True)]


@pytest.mark.long
def test_the_report_on_the_page_is_a_real_one(tmp_path: Path) -> None:
    (report,) = [block.text for block in blocks(PAGE) if block.language == "text"]
    name = "test_thermostat.py"
    done = run(tmp_path, {**files(), name: files()[name].replace("sim_network.heal()", "pass")}, "-k", "partition")
    assert report in done.stdout
