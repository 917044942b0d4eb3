"""``macula-trio replay``: runs one scenario on virtual time, tells its story, and compares its trace."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import attrs
import click

from macula_trio import MeshError
from macula_trio._cli.children import LIMIT_MAX_S, ORPHAN_S, end_after
from macula_trio._cli.compare import first_difference, show_difference
from macula_trio._cli.happenings import clip
from macula_trio._cli.hash_seeds import replay_with_hash_seeds
from macula_trio._cli.options import json_option
from macula_trio._cli.output import print_json, say
from macula_trio._cli.runner import failures, run
from macula_trio._cli.scales import (
    Seconds,
    judged_by,
    read_hash_seeds,
    read_numbers,
    replay_command,
    write_numbers,
)
from macula_trio._cli.signals import deferred, exit_code
from macula_trio._cli.story import tell
from macula_trio._reading import read_bounded
from macula_trio.testing._world import Scale

TRACE_BYTES_MAX: Final = 256 * 1024 * 1024  # a thousand times those that come with the library
WIDTH: Final = 80  # columns, where no terminal says otherwise
ERROR_MAX: Final = 400  # characters of an error for people; a deadlock names every task


@attrs.frozen(kw_only=True)
class Run:
    """What a replay gave.

    Attributes:
      report: as `macula-trio replay --json` writes it.
      trace: JSON lines.
    """

    report: Mapping[str, Any]
    trace: list[str]


@attrs.frozen(kw_only=True)
class Difference:
    """Two traces, or other facts of two runs, that should be the same and are not.

    Attributes:
      kind: in the place of an error's kind.
      error: one line.
      lines: for people.
    """

    kind: str
    error: str
    lines: list[str] = attrs.field(factory=list)


def _end_after(_context: click.Context, _parameter: click.Parameter, limit_s: float | None) -> None:
    if limit_s is not None:
        end_after(limit_s)


@click.command()
@click.argument("file")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Everything follows from it.")
@click.option("--trace", "trace_file", metavar="FILE", help="Write the whole trace there, as JSON lines.")
@click.option("--against", metavar="FILE", help="A trace that must come out again, line by line.")
@click.option(
    "--hash-seeds",
    metavar="A:B",
    callback=judged_by(read_hash_seeds),
    help="Replay under PYTHONHASHSEED from A to B-1; all must be one.",
)
@click.option("--nodes", type=click.IntRange(1), help="At most so many, where the scenario lets you choose.")
@click.option("--seconds", type=Seconds(0, min_open=True), help="Go on at most so long, likewise.")
@click.option(
    "--skip-faults",
    metavar="I,J,A:B",
    callback=judged_by(read_numbers),
    help="Leave out the faults of these numbers, from 0 on.",
)
@click.option("--traceback", is_flag=True, help="Where an exception came from, on stderr.")
@click.option(
    "--limit",
    type=Seconds(0, LIMIT_MAX_S + ORPHAN_S, min_open=True),
    hidden=True,
    expose_value=False,
    callback=_end_after,
)
@json_option
def replay(
    *,
    file: str,
    seed: int,
    trace_file: str | None,
    against: str | None,
    hash_seeds: range | None,
    nodes: int | None,
    seconds: float | None,
    skip_faults: tuple[int, ...] | None,
    traceback: bool,
    as_json: bool,
) -> int:
    """Run the scenario of FILE and tell its story.

    The same seed gives the same run, to the last packet. Fails when an invariant does not hold, the scenario raises or
    is stuck, or a comparison that was asked for finds a difference.
    """
    if traceback and hash_seeds is not None:
        raise click.UsageError("--traceback is of one run; leave out --hash-seeds")
    scale = Scale(nodes=nodes, seconds=seconds, skip_faults=skip_faults or ())
    golden = None if against is None else _read_trace(against)
    with contextlib.ExitStack() as stack:
        sink = None if trace_file is None else stack.enter_context(_open_trace(trace_file))
        if hash_seeds is None:
            done, difference = _replay_here(file, seed, scale, traceback=traceback), None
        else:
            check_scenario(file)
            done, difference = _replay_with(hash_seeds, file, seed, scale)
        if sink is not None:
            _write_trace(sink, done.trace)
    if golden is not None and difference is None:
        difference = _compare(golden, done.trace, str(against))
    done = attrs.evolve(done, report=_with_difference(done.report, difference))
    if as_json:
        with failures():
            print_json(done.report)
    else:
        print_story(done, scale, difference)
        if difference is None:
            _tell_same(against, hash_seeds)
    if done.report["error"] is None:
        return 0
    if not as_json:
        say("")
        comparisons = [] if against is None else ["--against", against]
        comparisons += [] if hash_seeds is None else ["--hash-seeds", f"{hash_seeds.start}:{hash_seeds.stop}"]
        say(f"replay it: {replay_command(file, seed, scale, *comparisons)}")
    raise click.ClickException(clip(f"{done.report['scenario']}, seed {seed}: {done.report['error']}", ERROR_MAX))


def already_leaving() -> None:
    """For `run`: a further signal has nothing to hurry, because children are killed at the first."""


def check_scenario(file: str) -> None:
    """See whether a file has a scenario, before processes are started for it.

    Raises:
      click.UsageError: it has none.
    """
    from macula_trio.testing._scenario import ScenarioError, load_scenario  # noqa: PLC0415 - see _replay_here

    try:
        with contextlib.redirect_stdout(sys.stderr):  # as _replay_here does
            load_scenario(file)
    except ScenarioError as exc:
        raise click.UsageError(str(exc)) from exc


def _replay_here(file: str, seed: int, scale: Scale, *, traceback: bool) -> Run:
    """Run the scenario in this process.

    Raises:
      click.ClickException: the file has no scenario, or this Trio cannot be replayed.
    """
    # Here, because no other command needs what stands under a replay, or fails where that is not to be had.
    from macula_trio.testing import _scenario  # noqa: PLC0415

    started = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a scenario prints is not our result
            outcome = _scenario.replay(file, seed=seed, scale=scale)
    except _scenario.ScenarioError as exc:
        raise click.UsageError(str(exc)) from exc
    except MeshError as exc:
        raise click.ClickException(str(exc)) from exc
    except KeyboardInterrupt:
        raise click.exceptions.Exit(exit_code()) from None
    if traceback and outcome.traceback:
        click.echo(outcome.traceback, err=True, nl=False)
    report = {
        "scenario": outcome.name,
        "summary": outcome.summary,
        "seed": outcome.seed,
        "ok": outcome.ok,
        "trace_hash": outcome.trace_hash,
        "schedule_hash": outcome.schedule_hash,
        "datagram_hash": outcome.datagram_hash,
        "lines": len(outcome.trace),
        "virtual_s": round(outcome.virtual_s, 6),
        "wall_s": round(time.perf_counter() - started, 3),
        "nodes": outcome.nodes,
        "seconds": outcome.seconds,
        "faults": outcome.faults,
        "invariants": dict(outcome.invariants),
        "error_kind": outcome.error_kind,
        "error": outcome.error,
    }
    return Run(report=report, trace=list(outcome.trace))


def _replay_with(hash_seeds: range, file: str, seed: int, scale: Scale) -> tuple[Run, Difference | None]:
    """Run the scenario in one process for each hash seed; gives the first run, and how another one differs from it."""
    found: list[tuple[Run, Difference | None]] = []

    async def work() -> int:
        first, report, parted = await replay_with_hash_seeds(hash_seeds, file, seed, scale)
        difference = None
        if parted is not None:
            names = (f"hash seed {hash_seeds[0]}", f"hash seed {parted.hash_seed}")
            lines = (
                [] if parted.trace is None else list(show_difference(first, parted.trace, names=names, width=_width()))
            )
            error = f"PYTHONHASHSEED={parted.hash_seed} gives another {parted.what} than PYTHONHASHSEED={hash_seeds[0]}"
            difference = Difference(kind="differs:hash_seeds", error=error, lines=lines)
        found.append((Run(report=report, trace=first), difference))
        return 0

    code = run(work, hurry=already_leaving)
    if not found:
        raise click.exceptions.Exit(code)  # interrupted
    return found[0]


def _compare(golden: list[str], trace: list[str], path: str) -> Difference | None:
    at = first_difference(golden, trace)
    if at is None:
        return None
    lines = list(show_difference(golden, trace, names=("golden", "now"), width=_width()))
    return Difference(kind="differs:golden", error=f"the trace leaves {path} at line {at + 1}", lines=lines)


def _with_difference(report: Mapping[str, Any], difference: Difference | None) -> Mapping[str, Any]:
    """The report, with the difference for an error, unless the run failed by itself."""
    if difference is None or report["error"] is not None:
        return report
    return {**report, "ok": False, "error_kind": difference.kind, "error": difference.error}


def _read_trace(path: str) -> list[str]:
    try:
        return read_bounded(path, bytes_max=TRACE_BYTES_MAX).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a trace"
        raise click.UsageError(f"--against {path}: {reason}") from exc


@contextlib.contextmanager
def _open_trace(path: str) -> Iterator[TextIO]:
    """Open the file before the run, so that a complaint comes then; it keeps what it has until the run is over.

    A file that was not there is not left behind when the block fails or is interrupted.
    """
    new = not os.path.lexists(path)
    try:
        file = open(path, "a", encoding="utf-8", newline="\n", opener=_open_without_waiting)  # noqa: SIM115 - closed below
    except (OSError, ValueError) as exc:
        reason = "a pipe that nobody reads" if getattr(exc, "errno", None) == errno.ENXIO else None
        raise click.UsageError(f"--trace {path}: {reason or getattr(exc, 'strerror', None) or exc}") from exc
    try:
        with file:
            yield file
    except BaseException:  # interrupted as well
        if new:
            Path(path).unlink(missing_ok=True)
        raise


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a named pipe would wait for a reader, who may never come."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(handle, True)
    return handle


def _write_trace(sink: TextIO, trace: Iterable[str]) -> None:
    whole = stat.S_ISREG(os.fstat(sink.fileno()).st_mode)
    try:
        # A file is written whole or not at all; a pipe has nothing to forget, and its reader may keep us waiting.
        with deferred() if whole else contextlib.nullcontext(), sink:  # a full disk may show itself at its closing
            if whole:
                sink.truncate(0)
            sink.writelines(f"{line}\n" for line in trace)
    except OSError as exc:
        raise click.ClickException(f"--trace {sink.name}: {exc.strerror}") from exc


# -- for people ------------------------------------------------------------------------------------------------------


@failures()
def print_story(done: Run, scale: Scale, difference: Difference | None) -> None:
    """Write what happened, what was checked, and by what the run is known again."""
    report, story = done.report, tell(done.trace)
    say(f"{report['scenario']}, seed {report['seed']}", bold=True)
    for line in textwrap.wrap(clip(report["summary"], ERROR_MAX), _width()):
        say(line)
    say("")
    for text, is_fault in story.texts(_width()):
        say(text, bold=is_fault)
    say("")
    for name, value in _facts(report, scale):
        say(clip(f"{name:<11} {value}", _width()))
    say(_told(story.told, len(done.trace)))
    for index, (event, number) in enumerate(story.counted.items()):
        say(clip(f"{'' if index else 'counted':<11} {number:>8,}  {event}", _width()))
    if difference is not None and difference.lines:
        say("")
        for line in difference.lines:
            say(line)


def _tell_same(against: str | None, hash_seeds: range | None) -> None:
    if against is not None:
        say(f"{'against':<11} the same as {against}")
    if hash_seeds is not None:
        say(f"{'hash seeds':<11} {write_numbers(hash_seeds)}: the same trace, schedule and datagrams")


def _told(told: int, lines: int) -> str:
    return f"{'trace':<11} {lines:,} lines, of which the story tells {told:,}; --trace FILE has all"


def _facts(report: Mapping[str, Any], scale: Scale) -> Iterator[tuple[str, str]]:
    skipped = f", without {write_numbers(scale.skip_faults)}" if scale.skip_faults else ""
    yield "faults", f"{report['faults']}, numbered from 0{skipped}" if report["faults"] else "none"
    for index, (name, times) in enumerate(report["invariants"].items()):
        yield "" if index else "invariants", f"{times:>8,}  {name}"
    yield "trace hash", report["trace_hash"]  # 64 digits fit
    yield "schedule", report["schedule_hash"]
    yield "datagrams", report["datagram_hash"]
    yield "time", f"{report['virtual_s']:.3f} s virtual, {report['wall_s']:.2f} s wall"


def _width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
