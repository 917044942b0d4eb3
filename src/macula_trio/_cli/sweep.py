"""``macula-trio sweep``: runs one scenario under many seeds, and makes the first failure small."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from macula_trio._cli.children import LIMIT_MAX_S, LIMIT_S, Child, cores, run_child
from macula_trio._cli.cluster import MissingExtra, sweep_cluster
from macula_trio._cli.happenings import clip
from macula_trio._cli.options import json_option
from macula_trio._cli.output import count, print_json, say
from macula_trio._cli.replay import ERROR_MAX, already_leaving, check_scenario
from macula_trio._cli.runner import failures, run
from macula_trio._cli.scales import Seconds, judged_by, read_range, replay_arguments, replay_command, write_numbers
from macula_trio._cli.signals import exit_code
from macula_trio._util import parse_endpoint
from macula_trio.testing._shrink import Shrink, Size
from macula_trio.testing._world import Scale

JOBS_MAX: Final = 1024  # processes at once; far more than one machine has cores
KINDS_MAX: Final = 20  # of errors are told apart; a scenario that fails in more ways is one that never worked
SEEDS_MAX: Final = 10  # of one kind are named, the lowest ones
SCHEMES: Final = ("tcp", "tls", "ws", "wss")  # of a cluster's scheduler
OTHER_KINDS: Final = "other kinds"

Take: TypeAlias = Callable[[int, Child], None]
"""Is told the seed, and how its replay has ended."""


@attrs.define(kw_only=True)
class Kind:
    """Seeds that fail in one way.

    Attributes:
      error: of the lowest seed.
      seeds: the lowest ones, in order.
      count: of all.
    """

    error: str
    seeds: list[int] = attrs.field(factory=list)
    count: int = 0

    def add(self, seed: int, error: str) -> None:
        """Take note of one more."""
        self.count += 1
        self.seeds = sorted([*self.seeds, seed])[:SEEDS_MAX]
        if self.seeds[0] == seed:
            self.error = error


@attrs.define
class Found:
    """What a sweep has found so far; it does not grow with the seeds.

    Attributes:
      done: how many seeds have run.
      kinds: failures by their kind.
      first: of those that fail and told of themselves, the lowest seed and its replay.
    """

    done: int = 0
    kinds: dict[str, Kind] = attrs.field(factory=dict)
    first: tuple[int, Child] | None = None

    @property
    def failed(self) -> int:
        """How many seeds have failed."""
        return sum(kind.count for kind in self.kinds.values())

    def take(self, seed: int, child: Child) -> None:
        """Take note of one replay."""
        self.done += 1
        if child.error_kind is None:
            return
        name = child.error_kind
        if name not in self.kinds and len(self.kinds) >= KINDS_MAX:
            name = OTHER_KINDS
        error = child.error or ""
        self.kinds.setdefault(name, Kind(error=error)).add(seed, error)
        if child.report is not None and (self.first is None or seed < self.first[0]):
            self.first = seed, child


def read_scheduler(text: str) -> str:
    """Read the address of a scheduler: HOST:PORT, or with one of `SCHEMES` in front.

    Raises:
      ValueError: it is none; Dask itself would find out late, and in many lines.
    """
    scheme, _, endpoint = text.rpartition("://")
    if scheme and scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is none of {', '.join(SCHEMES)}")
    parse_endpoint(endpoint)
    return text


@click.command()
@click.argument("file")
@click.option("--seeds", metavar="A:B", required=True, callback=judged_by(read_range), help="From A to B-1.")
@click.option("--jobs", type=click.IntRange(1, JOBS_MAX), help="Processes at once; as many as cores by default.")
@click.option(
    "--cluster",
    metavar="ADDRESS",
    callback=judged_by(read_scheduler),
    help="Scheduler of a Dask cluster that does the work: HOST:PORT, or tls://HOST:PORT.",
)
@click.option(
    "--timeout",
    type=Seconds(0, LIMIT_MAX_S, min_open=True),
    default=LIMIT_S,
    show_default=True,
    metavar="SECONDS",
    help="For one seed; then it is killed, and has failed.",
)
@click.option("--no-shrink", is_flag=True, help="Only look for failures.")
@json_option
def sweep(
    *, file: str, seeds: range, jobs: int | None, cluster: str | None, timeout: float, no_shrink: bool, as_json: bool
) -> int:
    """Run the scenario of FILE under many seeds, a process for each.

    Tells which seeds fail and how to replay them, then looks for the smallest run that fails as the lowest of them
    does: fewer nodes, shorter, fewer faults. --cluster wants the extra `cluster`, and this package on the workers,
    which get the text of FILE and nothing else.
    """
    if jobs is not None and cluster is not None:
        raise click.UsageError("--jobs is for this machine; a cluster has its own width")
    check_scenario(file)
    started, found = time.perf_counter(), Found()
    try:
        code = _run_seeds(file, seeds, found, jobs=jobs, cluster=cluster, limit_s=timeout)
    except click.ClickException:
        if found.done and not as_json:  # what there is was found by some work
            print_failures(_report(file, seeds, found, time.perf_counter() - started))
        raise
    report = _report(file, seeds, found, time.perf_counter() - started)
    if not as_json:
        print_failures(report)
    if code == 0 and found.first is not None and not no_shrink:
        code, shrunk = _shrink(file, *found.first, timeout)
        report["shrunk"] = _shrunk(file, shrunk)
        if not as_json:
            print_shrunk(report["shrunk"], interrupted=code != 0)
    if code:
        return code
    if as_json:
        with failures():
            print_json(report)
    if found.failed:
        raise click.ClickException(f"{found.failed} of {count(len(seeds), 'seed')} failed")
    return 0


def _run_seeds(file: str, seeds: range, found: Found, *, jobs: int | None, cluster: str | None, limit_s: float) -> int:
    """Replay every seed, here or on a cluster; gives the exit code, which is not 0 when we were interrupted."""
    with _progress(Path(file).stem, len(seeds)) as advance:

        def take(seed: int, child: Child) -> None:
            found.take(seed, child)
            advance(f"{found.failed} failed")

        if cluster is not None:
            return _sweep_there(cluster, file, seeds, limit_s, take)
        return run(lambda: sweep_here(file, seeds, jobs or cores(), limit_s, take), hurry=already_leaving)


async def sweep_here(file: str, seeds: range, jobs: int, limit_s: float, take: Take) -> int:
    """Replay every seed in a process of its own on this machine, so many at once."""
    turns = iter(seeds)

    async def take_turns() -> None:
        for seed in turns:  # shared: each is taken by one
            take(seed, await run_child(replay_arguments(file, seed, Scale()), limit_s=limit_s))

    async with trio.open_nursery() as nursery:
        for _ in range(min(jobs, len(seeds))):
            nursery.start_soon(take_turns)
    return 0


def _sweep_there(address: str, file: str, seeds: range, limit_s: float, take: Take) -> int:
    """Let a cluster do it.  Outside of Trio: the client of Dask has an event loop of its own, in a thread of its own.

    Raises:
      click.ClickException: the cluster is of no use.
    """
    try:
        with failures():
            source = Path(file).read_bytes()
            sweep_cluster(address, name=Path(file).name, source=source, seeds=seeds, limit_s=limit_s, take=take)
    except MissingExtra as exc:
        raise click.UsageError(str(exc)) from exc
    except KeyboardInterrupt:
        return exit_code()
    return 0


# -- shrinking -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Shrunk:
    """A failure, and the smallest run that was found for it."""

    seed: int
    kind: str
    before: Size
    shrink: Shrink


def _shrink(file: str, seed: int, child: Child, limit_s: float) -> tuple[int, Shrunk]:
    """Look for the smallest run of a seed that fails in the same way; gives the exit code, too."""
    assert child.report is not None
    assert child.error_kind is not None
    before, kind = _size(child.report), child.error_kind
    shrink = Shrink(Scale(), before)

    async def work() -> int:
        while shrink.candidate is not None:
            tried = await run_child(replay_arguments(file, seed, shrink.candidate), limit_s=limit_s)
            size = None if tried.report is None else _size(tried.report)
            shrink.judge(fails=tried.error_kind == kind, size=size)
            advance(_smaller(before, shrink))
        return 0

    with _progress(f"shrinking seed {seed}", None) as advance:
        code = run(work, hurry=already_leaving)
    return code, Shrunk(seed, kind, before, shrink)


def _size(report: Mapping[str, Any]) -> Size:
    return Size(nodes=report["nodes"], seconds=report["seconds"], faults=report["faults"])


def _smaller(before: Size, shrink: Shrink) -> str:
    """Write what is left: ``5 of 16 nodes, 12 of 60 s, 3 of 41 faults``."""
    now = shrink.size
    kept = sum(number not in shrink.best.skip_faults for number in range(now.faults))
    parts = [
        f"{now.nodes} of {count(before.nodes, 'node')}" if before.nodes else "",
        f"{now.seconds:g} of {before.seconds:g} s" if before.seconds else "",
        f"{kept} of {count(before.faults, 'fault')}" if before.faults else "",
    ]
    return ", ".join(filter(None, parts))


# -- what is told ----------------------------------------------------------------------------------------------------


def _report(file: str, seeds: range, found: Found, wall_s: float) -> dict[str, Any]:
    return {
        "scenario": Path(file).stem,
        "seeds": [seeds.start, seeds.stop],
        "done": found.done,
        "failed": found.failed,
        "wall_s": round(wall_s, 3),
        "errors": [
            {
                "error_kind": name,
                "error": kind.error,
                "count": kind.count,
                "seeds": kind.seeds,
                "commands": [replay_command(file, seed, Scale()) for seed in kind.seeds],
            }
            for name, kind in sorted(found.kinds.items(), key=lambda item: item[1].seeds)
        ],
        "shrunk": None,
    }


def _shrunk(file: str, shrunk: Shrunk) -> dict[str, Any]:
    best = shrunk.shrink.best
    return {
        "seed": shrunk.seed,
        "error_kind": shrunk.kind,
        "attempts": shrunk.shrink.attempts,
        "left": _smaller(shrunk.before, shrunk.shrink),
        "nodes": best.nodes,
        "seconds": best.seconds,
        "skip_faults": list(best.skip_faults),
        "command": replay_command(file, shrunk.seed, best),
    }


@failures()
def print_failures(report: Mapping[str, Any]) -> None:
    """Write for people which seeds failed, and how to replay them."""
    first, end = report["seeds"]
    result = f"{report['failed']} failed" if report["failed"] else "none failed"
    done = f"{report['done']} of " if report["done"] < end - first else ""
    seeds = f"{done}{count(end - first, 'seed')} ({write_numbers(range(first, end))})"
    say(f"{report['scenario']}: {seeds} in {report['wall_s']:.1f} s, {result}", bold=True)
    for kind in report["errors"]:
        say("")
        say(f"{count(kind['count'], 'seed')}: {clip(kind['error_kind'], ERROR_MAX)}")
        say(clip(f"  seed {kind['seeds'][0]}: {kind['error']}", ERROR_MAX))
        for command in kind["commands"]:
            say(f"  {command}")
        if kind["count"] > len(kind["seeds"]):
            say(f"  and {kind['count'] - len(kind['seeds'])} more")


@failures()
def print_shrunk(shrunk: Mapping[str, Any], *, interrupted: bool) -> None:
    """Write for people what the smallest run is."""
    so_far = ", interrupted" if interrupted else ""
    say("")
    say(f"shrunk seed {shrunk['seed']} in {count(shrunk['attempts'], 'run')}{so_far}: {shrunk['left'] or 'as it was'}")
    say(f"  {shrunk['command']}")


@contextmanager
def _progress(what: str, total: int | None) -> Generator[Callable[[str], None], None, None]:
    """A bar on stderr while the block runs, if that is a terminal; gives what is called for each step.

    It is drawn with each step: rich would draw by the clock, from a thread.
    """
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(what, total=total)
        progress.refresh()

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=f"{what}, {text}" if text else what, refresh=True)

        yield advance
