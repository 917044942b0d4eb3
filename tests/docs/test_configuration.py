"""The page about configuration has every setting as the code has it, and its sample is read as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from macula_trio import Identity
from macula_trio._cli.main import main
from macula_trio._cli.settings import SETTINGS, Setting

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "configure-a-node.md").read_text(encoding="utf-8")
MARK: Final = "<!-- settings: compared with the code by tests/docs/test_configuration.py -->\n"


def row(setting: Setting) -> str:
    """How the page writes a setting."""
    flag = "" if setting.flag is None else f"`{setting.flag} {setting.metavar}`"
    variables = f"`{setting.variable}`" + (f" or `{setting.old.name}`" if setting.old is not None else "")
    return f"| `{setting.name}` | {flag} | {variables} | {setting.default_text} | {setting.help} |"


def table() -> str:
    """The whole table."""
    head = "| key in the file | flag | variable | default | what it is |\n|---|---|---|---|---|"
    return "\n".join([head, *map(row, SETTINGS)])


def test_the_table_is_that_of_the_code() -> None:
    written = PAGE.partition(MARK)[2].partition("\n\n")[0]
    assert written == table()


def test_every_variable_of_v08_is_told() -> None:
    told = set(re.findall(r"`([A-Z_]+)`", PAGE.partition("## The variables of v0.8")[2]))
    assert told == {"MACULA_REALM", *(setting.old.name for setting in SETTINGS if setting.old is not None)}


def sample(directory: Path) -> None:
    """Write the sample, and the files that it names."""
    found = re.search(r"^```toml\n(# node\.toml\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    (directory / "node.toml").write_text(found[1], encoding="utf-8")
    Identity.generate().save(directory / "cellar.pem")
    (directory / "ca").mkdir()
    (directory / "secret").write_text("a passphrase for tests\n")
    assert main(["realm", "init", "ca", "--realm", "org.example.home", "--passphrase-file", "secret"]) == 0


def test_the_sample_is_read_and_shown_as_the_page_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:  # of the machine that this runs on
        for variable in (setting.variable, *([] if setting.old is None else [setting.old.name])):
            monkeypatch.delenv(variable, raising=False)
    sample(tmp_path)
    capsys.readouterr()
    command = re.search(r"^GATEWAY_PORT=(\d+) macula-trio (.*)$", PAGE, re.MULTILINE)
    shown = re.search(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert command is not None
    assert shown is not None
    monkeypatch.setenv("GATEWAY_PORT", command[1])
    assert main(command[2].split()) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    lines = [line.split() for line in shown[1].splitlines() if "─" not in line]
    assert len(lines) == 6
    assert [line for line in lines if line not in printed] == []
