"""Replays in processes of their own: each has its limits, and none outlives us, or for long if we are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from macula_trio._cli.scales import replay_arguments
from macula_trio.testing._world import Scale

LIMIT_S: Final = 300.0  # of the wall clock, for one replay; the longest that come with the library take about a minute
LIMIT_MAX_S: Final = 86_400.0  # a day; a child that needs more is stuck, and timers of the system end somewhere
ORPHAN_S: Final = 2.0  # beyond its limit, after which a child ends itself: whoever should have killed it is gone
OUTPUT_BYTES_MAX: Final = 1 << 20  # kept of what a child writes, the end of it: its report is some kilobytes
LAST_WORDS_MAX: Final = 200  # characters of the last line of a child that died

TIMEOUT: Final = "timeout"
DIED: Final = "died"


@attrs.frozen(kw_only=True)
class Child:
    """How a child that replays has ended.

    Attributes:
      report: the JSON object that it wrote; None when it wrote none.
      error_kind: what went wrong, as in `macula_trio.testing._scenario.Outcome`, or `TIMEOUT` or `DIED`; None: nothing.
      error: one line.
      wall_s: how long it took.
    """

    report: Mapping[str, Any] | None
    error_kind: str | None
    error: str | None
    wall_s: float


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def run_child(arguments: Sequence[str], *, limit_s: float, hash_seed: int | None = None) -> Child:
    """Run one replay in a child process; it is killed when its time is over, or when we are cancelled.

    Args:
      arguments: of ``macula-trio replay``; what every child gets is added.
      limit_s: of the wall clock.
      hash_seed: ``PYTHONHASHSEED`` of the child; ours by default.
    """
    # A module in the current directory must not take the place of one of ours, unless that is where we come from.
    safe = [] if sys.path[0] in ("", str(Path.cwd())) else ["-P"]
    ends_itself = ["--limit", str(limit_s + ORPHAN_S)]
    command = [sys.executable, *safe, "-m", "macula_trio", *arguments, *ends_itself, "--json"]
    environment = dict(os.environ)
    if hash_seed is not None:
        environment["PYTHONHASHSEED"] = str(hash_seed)
    started = time.perf_counter()
    output, complaint = Tail(), Tail()
    with trio.move_on_after(limit_s) as patience:
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    check=False,
                    env=environment,
                    deliver_cancel=_kill,
                    start_new_session=True,  # Ctrl-C on the terminal is for us, and we end our children
                )
            )
            assert process.stdout is not None
            assert process.stderr is not None
            nursery.start_soon(output.read, process.stdout)
            nursery.start_soon(complaint.read, process.stderr)
    wall_s = time.perf_counter() - started
    if patience.cancelled_caught:
        return Child(report=None, error_kind=TIMEOUT, error=f"killed after {limit_s:g} s", wall_s=wall_s)
    return _judge(process.returncode, output.text(), complaint.text(), wall_s)


def replay_text(name: str, source: bytes, seed: int, limit_s: float) -> Child:
    """Replay a scenario that is no file here; what the workers of a cluster do, each in a thread of its pool."""
    with tempfile.TemporaryDirectory(prefix="macula-trio-sweep-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / name
        path.write_bytes(source)

        async def work() -> Child:
            return await run_child(replay_arguments(str(path), seed, Scale()), limit_s=limit_s)

        return trio.run(work)


def end_after(limit_s: float) -> None:
    """Let the system end this process when its time is over, even in the midst of a loop; by default SIGALRM does."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, limit_s)


def _judge(code: int | None, output: str, complaint: str, wall_s: float) -> Child:
    try:
        report = json.loads(output)
        return Child(report=report, error_kind=report["error_kind"], error=report["error"], wall_s=wall_s)
    except (ValueError, TypeError, KeyError):
        last = next((line for line in reversed(complaint.splitlines()) if line.strip()), "it wrote nothing")
        error = f"no report, exit code {code}: {last.removeprefix('error: ')[:LAST_WORDS_MAX]}"
        return Child(report=None, error_kind=DIED, error=error, wall_s=wall_s)


async def _kill(process: trio.Process) -> None:
    process.kill()
    await process.wait()


@attrs.define
class Tail:
    """The end of what a stream brings: memory does not grow with what a child has to say."""

    kept: bytearray = attrs.field(factory=bytearray)

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Read to the end."""
        async with stream:
            async for chunk in stream:
                self.kept += chunk
                del self.kept[:-OUTPUT_BYTES_MAX]

    def text(self) -> str:
        """What was kept."""
        return self.kept.decode(errors="replace")
