"""Scenarios: files with ``async def scenario(world)``, and what a replay of one gives (DESIGN section 11)."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from macula_trio._background import sole_leaf
from macula_trio.errors import MeshError
from macula_trio.testing._determinism import Deadlock, SeededRun, run_seeded
from macula_trio.testing._invariants import NOTHING_LEFT, InvariantViolated
from macula_trio.testing._world import Scale, World, open_world

if TYPE_CHECKING:
    from types import ModuleType

QUIET: Final = logging.NullHandler()
SCENARIO_BYTES_MAX: Final = 1024 * 1024  # of a file that people write
VIRTUAL_S_MAX: Final = 3600.0  # a scenario that has not ended by then never will

Scenario: TypeAlias = Callable[[World], Awaitable[None]]


class ScenarioError(MeshError):
    """A file is no scenario; one line with the path and what is wrong."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What one run of a scenario gave.

    Attributes:
      name: of its file, without the ending.
      summary: first line of its docstring.
      seed: as asked.
      ok: whether it ended and every invariant held.
      trace: JSON lines; see `macula_trio.testing._trace`.
      trace_hash: SHA-256 over them, hexadecimal.
      schedule_hash: over every step of every task; moves with any change of the code.
      datagram_hash: over when, whence, whereto and how long of every datagram; moves with the wire.
      virtual_s: how long it took on Trio's clock.
      steps: of all tasks.
      nodes: how many it wanted at most, or took when it was scaled down; 0 when it has no such knob.
      seconds: how long it meant to go on, likewise.
      faults: how many were numbered, those that were skipped included.
      invariants: how often each was checked.
      error_kind: ``invariant:...``, ``deadlock`` or ``exception:...``; None when it is ok.
      error: one line for people.
      traceback: of the error, several lines.
    """

    name: str
    summary: str
    seed: int
    ok: bool
    trace: tuple[str, ...]
    trace_hash: str
    schedule_hash: str
    datagram_hash: str
    virtual_s: float
    steps: int
    nodes: int
    seconds: float
    faults: int
    invariants: Mapping[str, int]
    error_kind: str | None = None
    error: str | None = None
    traceback: str | None = None


def load_scenario(path: str | os.PathLike[str]) -> tuple[Scenario, str]:
    """Give the scenario of a file, and the first line of the file's docstring.

    Raises:
      ScenarioError: no such file, it does not run, or it has no ``async def scenario(world)``.
    """
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as exc:  # a name that is too long, or none
        raise ScenarioError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if size is None:
        raise ScenarioError(f"{path}: no such file")
    if size > SCENARIO_BYTES_MAX:
        raise ScenarioError(f"{path}: {size} bytes are too many, limit {SCENARIO_BYTES_MAX}")
    spec = importlib.util.spec_from_file_location(f"scenario_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ScenarioError(f"{path}: not a Python file")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module of a class
    try:
        with _beside(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:  # somebody's file, and his errors
        raise ScenarioError(f"{path}: {type(exc).__name__}: {exc}") from exc
    found = getattr(module, "scenario", None)
    if not callable(found):
        raise ScenarioError(f"{path}: has no async def scenario(world)")
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return found, summary


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let a scenario import the files beside it, as a script can."""
    directory = str(path.resolve().parent)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def replay(path: str | os.PathLike[str], *, seed: int = 0, scale: Scale | None = None) -> Outcome:
    """Run the scenario of a file once, from start to end, on Trio's mock clock.

    What goes wrong in the scenario is told in the outcome, and not raised.

    Raises:
      ScenarioError: the file is no scenario.
      DeterminismUnavailable: Trio or aioquic are of a version that cannot be replayed.
    """
    scenario, summary = load_scenario(path)
    with _beside(Path(path)):
        return run_scenario(scenario, name=Path(path).stem, summary=summary, seed=seed, scale=scale)


def run_scenario(
    scenario: Scenario, *, name: str = "scenario", summary: str = "", seed: int = 0, scale: Scale | None = None
) -> Outcome:
    """Run a scenario once; see `replay`."""
    worlds: list[World] = []
    # What aioquic thinks of a datagram that came twice or late: it is the scenario's doing, and no news.
    logging.getLogger("quic").addHandler(QUIET)  # which adds it once

    async def run(_chance: random.Random) -> BaseException | None:
        before = trio.lowlevel.current_statistics().tasks_living
        try:
            async with open_world(seed=seed, scale=scale) as world:
                worlds.append(world)
                await scenario(world)
            left = trio.lowlevel.current_statistics().tasks_living - before
            world.check(NOTHING_LEFT, not left, f"tasks that go on: {left}")
        except (Exception, SystemExit) as exc:  # the boundary: whatever a scenario raises is what the run has found
            return exc
        return None

    failure: BaseException | None
    seeded: SeededRun[BaseException | None] | None = None
    try:
        seeded = run_seeded(run, seed=seed, virtual_s_max=VIRTUAL_S_MAX)
        failure = seeded.result
    except Deadlock as exc:
        failure = exc
    world = worlds[0]
    failure = world.failure or failure  # what was violated first has led to the rest
    if failure is not None:
        failure = sole_leaf(failure)
    return Outcome(
        name=name,
        summary=summary,
        seed=seed,
        ok=failure is None,
        trace=tuple(world.trace.lines),
        trace_hash=world.trace.hash,
        schedule_hash=seeded.schedule if seeded is not None else "",
        datagram_hash=world.network.digest,
        virtual_s=seeded.virtual_s if seeded is not None else 0.0,
        steps=seeded.steps if seeded is not None else 0,
        nodes=world.nodes_asked,
        seconds=world.seconds_asked,
        faults=world.faults,
        invariants=MappingProxyType(dict(sorted(world.invariants.checked.items()))),
        error_kind=None if failure is None else _kind(failure),
        error=None if failure is None else _one_line(failure),
        traceback=None if failure is None else "".join(traceback.format_exception(failure)),
    )


def _kind(failure: BaseException) -> str:
    """What tells one way to fail from another, whatever the names and times in it."""
    if isinstance(failure, InvariantViolated):
        return f"invariant:{failure.invariant}"
    if isinstance(failure, Deadlock):
        return "deadlock"
    return f"exception:{type(failure).__name__}"


def _one_line(failure: BaseException) -> str:
    if isinstance(failure, (InvariantViolated, Deadlock)):
        return str(failure)
    text = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__
