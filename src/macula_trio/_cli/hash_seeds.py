"""One run in many processes, each with another hash seed: what it gives may not depend on how strings are hashed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from macula_trio._cli.children import LIMIT_S, Child, cores, run_child
from macula_trio._cli.scales import replay_arguments
from macula_trio.errors import MeshError
from macula_trio.testing._world import Scale

HASHES: Final = ("trace_hash", "schedule_hash", "datagram_hash")


class ChildFailed(MeshError):
    """A child gave nothing to compare."""


@attrs.frozen(kw_only=True)
class Parted:
    """The first hash seed that gives something else than the first of all.

    Attributes:
      hash_seed: this one.
      what: trace, schedule or datagrams.
      trace: its trace, when it is that which differs.
    """

    hash_seed: int
    what: str
    trace: list[str] | None


async def replay_with_hash_seeds(
    hash_seeds: range, file: str, seed: int, scale: Scale
) -> tuple[list[str], Mapping[str, Any], Parted | None]:
    """Replay a scenario under each ``PYTHONHASHSEED``, as many at once as there are cores.

    Returns:
      The trace and the report of the first, the latter with the hashes of all under ``hash_seeds``; and who differs.

    Raises:
      ChildFailed: a child has died or was killed.
    """
    children: dict[int, Child] = {}
    turns = iter(hash_seeds)
    with tempfile.TemporaryDirectory(prefix="macula-trio-replay-", ignore_cleanup_errors=True) as name:
        directory = Path(name)

        async def take_turns() -> None:
            for hash_seed in turns:  # shared: each is taken by one
                arguments = [*replay_arguments(file, seed, scale), "--trace", str(_trace(directory, hash_seed))]
                children[hash_seed] = await run_child(arguments, limit_s=LIMIT_S, hash_seed=hash_seed)

        async with trio.open_nursery() as nursery:
            for _ in range(min(cores(), len(hash_seeds))):
                nursery.start_soon(take_turns)
        reports = {hash_seed: _report(hash_seed, children[hash_seed]) for hash_seed in hash_seeds}
        parted = _first_parted(reports, directory)
        first = reports[hash_seeds[0]]
        hashes = {str(number): {name: report[name] for name in HASHES} for number, report in reports.items()}
        return _read(directory, hash_seeds[0]), {**first, "hash_seeds": hashes}, parted


def _report(hash_seed: int, child: Child) -> Mapping[str, Any]:
    if child.report is None:
        raise ChildFailed(f"PYTHONHASHSEED={hash_seed}: {child.error}")
    return child.report


def _first_parted(reports: Mapping[int, Mapping[str, Any]], directory: Path) -> Parted | None:
    first = next(iter(reports.values()))
    for hash_seed, report in reports.items():
        for name in HASHES:
            if report[name] != first[name]:
                trace = _read(directory, hash_seed) if name == "trace_hash" else None
                return Parted(hash_seed=hash_seed, what=name.removesuffix("_hash"), trace=trace)
    return None


def _trace(directory: Path, hash_seed: int) -> Path:
    return directory / f"{hash_seed}.jsonl"


def _read(directory: Path, hash_seed: int) -> list[str]:
    return _trace(directory, hash_seed).read_text(encoding="utf-8").splitlines()
