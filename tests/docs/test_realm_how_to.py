"""The commands of the page about realms run, one after another, as a reader copies them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from page_tools import blocks

pytestmark = [pytest.mark.processes, pytest.mark.long]

PAGE: Final = "docs/how-to/run-a-realm.md"


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    found = [block for block in blocks(PAGE) if block.language == "sh"]
    commands = [block.text for block in found if not block.note.startswith("not run")]
    assert len(commands) == len(found) - 1 == 7
    program = tmp_path / "bin" / "macula-trio"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m macula_trio "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "MACULA_CA_PASSPHRASE": "a passphrase for tests",
    }
    done = subprocess.run(
        ["sh", "-eu"],
        input="".join(commands),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert {"ca", "attic.pem", "cellar.pem", "cellar.crt"} <= {path.name for path in tmp_path.iterdir()}
