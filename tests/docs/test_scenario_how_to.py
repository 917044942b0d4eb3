"""The scenario that docs/how-to/replay-scenarios.md shows does what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from page_tools import files

from macula_trio.testing import replay

pytestmark = pytest.mark.thorough

PAGE: Final = "docs/how-to/replay-scenarios.md"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scenario_of_the_page_runs_and_holds(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "rolling_restart.py"
    path.write_text(files(PAGE)["rolling_restart.py"], encoding="utf-8")
    outcome = replay(path, seed=seed)
    assert outcome.ok, outcome.traceback
    assert outcome.invariants["who comes back is answered"] == 5
    assert outcome.faults == 5
