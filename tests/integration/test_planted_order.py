"""A dependence on the order of a set, planted into a copy of the package, is caught by what `nox -s scenarios` runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import macula_trio

pytestmark = [pytest.mark.processes, pytest.mark.long]

PACKAGE: Final = Path(macula_trio.__file__).parent
SCENARIOS: Final = Path(__file__).parents[2] / "scenarios"
LINE: Final = "            for contact in targets:\n"  # of the STORE fan-out
PLANTED: Final = "            for contact in set(targets):\n"
DEADLINE_S: Final = 50


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    """What nox runs for each scenario, on a scaled-down one, with the package of ``directory``."""
    scenario = str(SCENARIOS / "partition_heal.py")
    smaller = ["--nodes", "8", "--seconds", "1"]
    return subprocess.run(
        [sys.executable, "-m", "macula_trio", "replay", scenario, "--hash-seeds", "1:3", *smaller],
        env={**os.environ, "PYTHONPATH": str(directory), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A directory with a copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "macula_trio", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_honest_copy_passes(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_order_dependence_is_caught(copy: Path) -> None:
    owner = copy / "macula_trio" / "_dht" / "owner.py"
    text = owner.read_text(encoding="utf-8")
    assert text.count(LINE) == 1
    owner.write_text(text.replace(LINE, PLANTED), encoding="utf-8")
    done = check(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PYTHONHASHSEED=2 gives another trace than PYTHONHASHSEED=1" in done.stderr
