"""The page about connection lifetimes: its program does what is shown, and what it names and numbers is in the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs
import pytest
from page_tools import ROOT, blocks, files, read

import macula_trio as macula
from macula_trio._net import admission, wear
from macula_trio._peer import backoff, linger, liveness, per_message, window
from macula_trio._pubsub import wanted

PAGE: Final = "docs/connection-lifetimes.md"
TEXT: Final = read(PAGE)
SETTINGS: Final = (
    "keepalive_s",
    "links_max",
    "link_idle_s",
    "dial_deadline_s",
    "drain_deadline_s",
    "close_deadline_s",
    "connections",
)
_EMITTED: Final = re.compile(r"\.emit\(\s*\"((?:link|message)\.[a-z_]+)\"((?:[^()]|\([^()]*\))*)\)")


def rows(head: str) -> list[list[str]]:
    """The cells of a table, without its head, by how its head begins."""
    table = TEXT.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    lines = table.splitlines()[2:]
    assert lines, f"no table {head}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def emitted() -> dict[str, set[str]]:
    """Every event about links and messages that the code emits, with the names of its facts."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "src" / "macula_trio").rglob("*.py"))
    found: dict[str, set[str]] = {}
    for source in sources:
        for name, facts in _EMITTED.findall(source):
            found.setdefault(name, set()).update(re.findall(r"\b(\w+)=", facts))
    return found


@pytest.mark.processes
def test_the_program_prints_what_is_shown_below_it(tmp_path: Path) -> None:
    (program,) = files(PAGE).values()
    shown = next(block.text for block in blocks(PAGE) if block.text.startswith("link.opened"))
    (tmp_path / "links.py").write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "links.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_every_setting_has_the_default_of_the_code() -> None:
    defaults = {field.name: field.default for field in attrs.fields(macula.NodeConfig)}
    shown = {words(row[0])[0]: row[1].strip("`") for row in rows("setting")}
    assert shown == {
        name: f"{default:g}" if isinstance(default := defaults[name], (int, float)) else default for name in SETTINGS
    }


def test_every_event_about_links_and_messages_is_there_with_its_facts() -> None:
    assert {words(row[0])[0]: set(words(row[1])) for row in rows("event")} == emitted()


def test_every_count_of_links_dials_and_messages_is_there() -> None:
    fields = {field.name for field in attrs.fields(macula.NodeStatistics)}
    shown = {name for row in rows("field of `NodeStatistics`") for name in words(row[0])}
    assert shown <= fields
    assert {name for name in fields if name.startswith(("link", "dial"))} <= shown
    assert {name for name in fields if name.startswith("messages_")} - shown == {
        "messages_unhandled",
        "messages_forbidden",
    }


@pytest.mark.parametrize(
    "told",
    [
        f"{linger.LINGER_S * 1000:g} ms behind",
        f"{wear.STREAMS_WORN:,} streams or {wear.DATAGRAMS_WORN // 10**6} million datagrams",
        f"{per_message.PER_PEER_MAX} at once to one peer",
        f"{admission.CONNECTIONS_MAX:,} connections, {admission.CONNECTIONS_PER_HOST_MAX} of one host",
        f"{macula.NodeConfig(realm='r').keepalive_s + liveness.PROBES * liveness.PROBE_MIN_S:g} s by default",
        f"is {backoff.BASE_S:g} s behind the first failure",
        f"up to {backoff.CEILING_S:g} s",
        f"On each link {window.WINDOW_BYTES // 2**20} MiB may be",
        f"{window.BACKLOG_BYTES_MAX // 2**20} MiB have gathered",
    ],
)
def test_its_numbers_are_those_of_the_code(told: str) -> None:
    assert told in " ".join(TEXT.split())


def test_a_subscriber_is_wanted_for_a_minute() -> None:
    assert wanted.WANTED_S == 60
    assert "within the last minute" in " ".join(TEXT.split())
