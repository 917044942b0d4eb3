"""Under nox the tests meet the installed wheel, never the source tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import macula_trio

pytestmark = pytest.mark.skipif(
    "TESTS_OF_THE_WHEEL" not in os.environ, reason="the tests run against the source tree, not under nox"
)


def test_the_package_comes_from_site_packages() -> None:
    assert "site-packages" in Path(macula_trio.__file__).parts


def test_the_version_is_that_of_the_distribution() -> None:
    assert macula_trio.__version__ == metadata.version("macula-trio")


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert resources.files(macula_trio).joinpath("py.typed").is_file()


def test_the_wheel_carries_its_licence() -> None:
    assert metadata.metadata("macula-trio")["License-Expression"] == "Apache-2.0"
    assert metadata.metadata("macula-trio").get_all("License-File") == ["LICENSE"]


def test_the_wheel_holds_nothing_but_the_package() -> None:
    files = metadata.files("macula-trio") or []
    tops = {file.parts[0] for file in files if not file.parts[0].startswith("..")}
    assert {top for top in tops if not re.fullmatch(r"macula_trio(-.+\.dist-info)?", top)} == set()


def test_the_package_needs_no_extra_to_be_imported() -> None:
    code = "import sys, macula_trio, macula_trio.wire; print(sorted({'click', 'rich', 'pytest'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
@pytest.mark.parametrize("command", [["-m", "macula_trio"], []], ids=["module", "script"])
def test_the_command_line_is_there(command: list[str]) -> None:
    program = [sys.executable, *command] if command else [str(Path(sys.executable).with_name("macula-trio"))]
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout
