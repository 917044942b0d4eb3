"""The benchmark of attacks in its shortest form: it runs, tells the facts and leaves no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.long]

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"
COMMAND: Final = [sys.executable, str(BENCHMARKS / "attacks.py"), "--seconds", "1", "--rounds", "1", "--json"]
DEADLINE_S: Final = 50


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_honest_calls_and_joins_succeed_while_two_attacks_really_take_place() -> None:
    done = run("--only", "garbage-initials", "--only", "garbage-bytes")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"]
    assert [one["attack"] for one in told["attacks"]] == ["garbage-initials", "garbage-bytes"]
    for one in told["attacks"]:
        assert one["problems"] == []
        assert one["sent"][0][one["unit"]] >= one["least"]
        assert one["arrived"][0] > 0
        assert one["calls"] >= 100
        assert one["joins"] >= 1
        assert None not in (one["p50_ratio"], one["p99_ratio"], one["join_ratio"], one["rss_ratio"])
        assert one["rss_peak_mib"] > 10


def test_an_attack_that_nobody_knows_is_wrong_usage() -> None:
    done = run("--only", "harsh-words")
    assert done.returncode == 2
    assert "harsh-words" in done.stderr


def parent_and_state(pid: int) -> tuple[int, str]:
    """Zeros and Z for a process that is no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0, "Z"
    state, parent = stat.rpartition(")")[2].split()[:2]
    return int(parent), state


def children_of(pid: int) -> list[int]:
    everybody = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [other for other in everybody if parent_and_state(other)[0] == pid]


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S / 2
    while not is_so() and time.monotonic() < until:
        time.sleep(0.05)  # what another process does is no event of ours


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the children are found in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_so_do_its_processes(how: signal.Signals) -> None:
    command = [*COMMAND, "--only", "garbage-datagrams"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(children_of(process.pid)) == 4)
        children = children_of(process.pid)
        process.send_signal(how)
        process.wait(DEADLINE_S)
    assert len(children) == 4  # attacker, attacked, caller, joiner
    wait_for(lambda: all(parent_and_state(child)[1] == "Z" for child in children))
    assert {parent_and_state(child)[1] for child in children} == {"Z"}
