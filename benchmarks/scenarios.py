"""Wall time of scenarios, and where it goes: python benchmarks/scenarios.py [NAME]... [--seed N]

Each scenario is run once as it is, for the time, and once under cProfile, for the shares: a profile doubles the time,
and makes many small functions look worse than few large ones.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from macula_trio.testing import replay

SCENARIOS: Final = Path(__file__).parents[1] / "scenarios"
DEFAULT: Final = ("five_nodes", "thousand_nodes")
AIMS_S: Final = {"five_nodes": 2.0, "thousand_nodes": 60.0}
# The first that a function's file or name contains.
AREAS: Final = {
    "macula_trio/_wire": "our codec",
    "macula_trio/_dht": "our DHT",
    "macula_trio/_net": "our QUIC pump",
    "macula_trio/_peer": "our links",
    "macula_trio/_identity": "our identities",
    "macula_trio/testing": "simulated network, trace",
    "macula_trio": "the rest of ours",
    "aioquic": "aioquic",
    "_crypto": "aioquic",
    "_buffer": "aioquic",
    "/trio/": "Trio",
    "outcome": "Trio",
    "msgpack": "msgpack",
    "cryptography": "cryptography",
    "openssl": "cryptography",
    "_hashlib": "hashing",
    "_blake2": "hashing",
    "_sha": "hashing",
}
OTHER: Final = "built-in functions, the rest"


def area_of(function: tuple[str, int, str]) -> str:
    """Whom a function of a profile belongs to."""
    text = f"{function[0]} {function[2]}".replace("\\", "/")
    return next((area for part, area in AREAS.items() if part in text), OTHER)


def shares(profile: cProfile.Profile) -> Counter[str]:
    """Seconds by area, without those of the functions that it calls."""
    seconds: Counter[str] = Counter()
    for function, (_, _, own_s, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        seconds[area_of(function)] += own_s
    return seconds


def measure(name: str, seed: int) -> bool:
    """Run one scenario twice and print a few lines."""
    path = SCENARIOS / f"{name}.py"
    started = time.perf_counter()
    outcome = replay(path, seed=seed)
    wall_s = time.perf_counter() - started
    profile = cProfile.Profile()
    with profile:
        replay(path, seed=seed)
    aim = f", aim {AIMS_S[name]:g} s" if name in AIMS_S else ""
    print(f"{name}: {wall_s:.2f} s of wall time{aim}")
    print(
        f"  {outcome.virtual_s:.1f} virtual seconds, {outcome.steps} steps of tasks,"
        f" {outcome.steps / wall_s:.0f} per s{'' if outcome.ok else f', FAILED: {outcome.error}'}"
    )
    seconds = shares(profile)
    for area, own_s in seconds.most_common():
        share = own_s / seconds.total()
        if share >= 0.01:
            print(f"  {share:5.0%}  {area}")
    return outcome.ok


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = [measure(name, arguments.seed) for name in arguments.names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
