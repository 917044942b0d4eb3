"""``macula-trio config show``: what a node would run with, and where each value comes from."""

from __future__ import annotations

import click

from macula_trio import NodeId, Trust
from macula_trio._cli.identities import check_key_files
from macula_trio._cli.levels import Settled
from macula_trio._cli.options import json_option, settled_by, wrong_usage
from macula_trio._cli.output import print_json, print_table
from macula_trio._cli.settings import SETTINGS
from macula_trio._cli.values import plain_text, trust_text


@click.group()
def config() -> None:
    """See what flags, environment and file make of a node."""


@config.command()
@settled_by(SETTINGS)
@json_option
def show(*, settled: Settled, as_json: bool) -> int:
    """Print each setting, its value and where it comes from.

    Takes the options of `node`, and --timeout of the others. Starts nothing and makes no file; fails where a node
    would not start. Passphrases are not shown.
    """
    with wrong_usage():
        made = settled.config()
        check_key_files(settled)
    # Defaults may follow from what was told, so those of the fields are the configuration's own.
    values = {name: getattr(made, name, value) for name, value in settled.values.items() if name != "name"}
    values["name"] = settled["name"]
    if as_json:
        print_json({s.name: {"value": _plain(values[s.name]), "from": settled.origin(s.name)} for s in SETTINGS})
    else:
        rows = ([s.name, _brief(s.default_text, values[s.name]), settled.origin(s.name)] for s in SETTINGS)
        print_table(["setting", "value", "from"], rows)
    return 0


def _plain(value: object) -> object:
    """A value for programs."""
    if isinstance(value, Trust):
        return trust_text(value)
    if isinstance(value, tuple):
        return [item.hex() if isinstance(item, NodeId) else item for item in value]
    return value


def _brief(default_text: str, value: object) -> str:
    return default_text if value is None else plain_text(value)
