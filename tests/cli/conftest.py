"""No test here meets settings of the machine that it runs on: NODE_NAME, for one, is set by more than one CI."""

from __future__ import annotations

import os

import pytest

from macula_trio._cli.settings import PREFIX, SETTINGS


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every variable that is, or looks like, a setting out of the environment."""
    old = {setting.old.name for setting in SETTINGS if setting.old is not None}
    for name in list(os.environ):
        if name in old or (name.startswith(PREFIX) and name != "MACULA_SEED"):
            monkeypatch.delenv(name)
