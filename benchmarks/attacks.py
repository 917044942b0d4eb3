"""What an attack costs the others: latency of honest calls and joins, and memory of the attacked node, as ratios.

    python benchmarks/attacks.py [--only NAME]... [--seconds S] [--rounds N] [--flat-out] [--json]

Real UDP on loopback, a process for each: the node that is attacked (bootstrap and only provider), a node that calls it,
ever new nodes that join and call, and the attacker, which is nice to the others where they share a core.  For each
attack, in turn and again in each round, with new processes: a quiet time, the attack, a quiet time.  A ratio is that
of one round, attack to the quiet times around it; the table has the median of the rounds.

No time is judged.  What is (exit 1): every honest call and join gets its right answer, the attacked node lives and
lets go of every connection of the attacker, its memory grows by no more than `RSS_GROWTH_MAX_MIB`, and the attack sent
at least what it says, and it arrived.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from attack_children import Answer, Child, ChildDied, answer_all, open_child, requests
from attack_nodes import serve_caller, serve_joiner, serve_target
from attack_tools import Field, wait_until
from attackers import ATTACKS, Attack

from macula_trio._util import numeric_endpoint

RSS_GROWTH_MAX_MIB: Final = 128  # 512 half-open connections of 76 KiB, 4 links of 8 MiB unsent and 4 MiB withheld, air
QUIET_SHARE: Final = 0.5  # of an attack's time, before it and after it each
WARM_UP_S: Final = 0.3  # of calls that are not counted
SETTLE_S: Final = 40.0  # until nothing of the attacker is left: if his farewell was dropped, the link idles for 30 s
ATTACK_MAX_S: Final = 30.0  # an attack ends by itself
SAMPLE_S: Final = 0.05
NICE: Final = 10


# -- the attacker's process ------------------------------------------------------------------------------------------


async def serve_attacker(name: str) -> None:
    """Begin when told so; when told to stop, first complete what the attack must have sent at least."""
    asked = requests()
    os.nice(NICE)
    attack = ATTACKS[name]
    field = Field(target=("", 0), seconds=1.0)

    async def wait_sent(count: int) -> None:
        with trio.move_on_after(ATTACK_MAX_S):
            await wait_until(lambda: field.counts[attack.unit] >= count)

    async def run() -> None:
        with trio.move_on_after(ATTACK_MAX_S):
            await attack.run(field)

    async with trio.open_nursery() as nursery:

        async def answer(request: Answer) -> Answer:
            if request["do"] == "begin":
                host, port = request["target"]
                field.target, field.seconds = (host, port), request["seconds"]
                nursery.start_soon(run)
                await wait_sent(attack.first)
                return {}
            await wait_sent(attack.least)
            nursery.cancel_scope.cancel()
            return dict(field.counts)

        await answer_all(asked, answer)


CHILDREN: Final[dict[str, Callable[..., Awaitable[None]]]] = {
    "target": serve_target,
    "caller": partial(serve_caller, flat_out=False),
    "caller-flat-out": partial(serve_caller, flat_out=True),
    "joiner": serve_joiner,
    "attacker": serve_attacker,
}


# -- one round of one attack -----------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Phase:
    """What was measured while the attack went on, or while it was quiet."""

    calls: Answer = attrs.field(factory=dict)
    joins: Answer = attrs.field(factory=dict)
    rss_mib: list[float] = attrs.field(factory=list)
    busy: float = 0.0  # share of one core that the attacked node used


@attrs.define(eq=False)
class Round:
    """One attack between two quiet times."""

    before: Phase = attrs.field(factory=Phase)
    attack: Phase = attrs.field(factory=Phase)
    after: Phase = attrs.field(factory=Phase)
    sent: Answer = attrs.field(factory=dict)
    arrived: int = 0
    left: int = 0  # connections of the attacker that the node still holds long after
    problems: list[str] = attrs.field(factory=list)


def rss_mib(child: Child) -> float:
    lines = child.read_proc("status").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def cpu_s(child: Child) -> float:
    fields = child.read_proc("stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@attrs.define(eq=False)
class Honest:
    """The three honest processes."""

    target: Child
    caller: Child
    joiner: Child
    endpoint: str

    async def measure(self, phase: Phase, seconds: float) -> None:
        """Calls, joins, memory and load for a while."""
        begun, begun_cpu_s = trio.current_time(), cpu_s(self.target)

        async def sample() -> None:
            while True:
                phase.rss_mib.append(rss_mib(self.target))
                await trio.sleep(SAMPLE_S)

        async def calls() -> None:
            phase.calls = await self.caller.ask(seconds=seconds)

        async def joins() -> None:
            phase.joins = await self.joiner.ask(seconds=seconds, endpoint=self.endpoint)

        async with trio.open_nursery() as sampling:
            sampling.start_soon(sample)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls)
                nursery.start_soon(joins)
            sampling.cancel_scope.cancel()
        phase.busy = (cpu_s(self.target) - begun_cpu_s) / (trio.current_time() - begun)

    async def settle(self, connections: int) -> int:
        """Wait until the node holds no more connections than before; gives those that it holds too many."""
        until = trio.current_time() + SETTLE_S
        while True:
            left: int = (await self.target.ask())["connections"] - connections
            if left <= 0 or trio.current_time() > until:
                return max(0, left)
            await trio.sleep(SAMPLE_S)


@asynccontextmanager
async def open_honest(directory: str, *, flat_out: bool) -> AsyncGenerator[Honest, None]:
    async with (
        open_child("attacked", "target", directory=directory) as target,
        open_child("caller", "caller-flat-out" if flat_out else "caller", directory=directory) as caller,
        open_child("joiner", "joiner", directory=directory) as joiner,
    ):
        endpoint = (await target.hear())["endpoint"]
        await caller.ask(endpoint=endpoint)
        await caller.ask(seconds=WARM_UP_S)
        await joiner.ask(seconds=WARM_UP_S, endpoint=endpoint)
        yield Honest(target, caller, joiner, endpoint)


async def run_round(result: Round, name: str, directory: str, *, seconds: float, flat_out: bool) -> None:
    """Fill ``result``, as far as it gets."""
    quiet_s = seconds * QUIET_SHARE
    async with (
        open_child(name, "attacker", name, directory=directory) as attacker,
        open_honest(directory, flat_out=flat_out) as honest,
    ):
        await honest.measure(result.before, quiet_s)
        before = await honest.target.ask()
        await attacker.ask(do="begin", target=numeric_endpoint(honest.endpoint), seconds=seconds)
        await honest.measure(result.attack, seconds)
        result.sent = await attacker.ask(do="stop")
        result.attack.rss_mib.append(rss_mib(honest.target))
        result.arrived = (await honest.target.ask())["datagrams_received"] - before["datagrams_received"]
        result.left = await honest.settle(before["connections"])
        await honest.measure(result.after, quiet_s)


def judge(result: Round, attack: Attack) -> list[str]:
    """What must not be."""
    problems = list(result.problems)
    for when in ("before", "attack", "after"):
        phase: Phase = getattr(result, when)
        for what, answer in (("calls", phase.calls), ("joins", phase.joins)):
            if answer.get("failures"):
                problems.append(f"{when}: {answer['failures']} {what} failed, as by {answer['failed'][0]}")
            elif not answer.get("seconds"):
                problems.append(f"{when}: there were no {what}")
    growth_mib = max(result.attack.rss_mib, default=0.0) - max(result.before.rss_mib, default=0.0)
    if growth_mib > RSS_GROWTH_MAX_MIB:
        problems.append(f"the attacked node grew by {growth_mib:.0f} MiB, more than {RSS_GROWTH_MAX_MIB}")
    if result.left:
        problems.append(f"the attacked node still holds {result.left} connections of the attacker")
    if (sent := result.sent.get(attack.unit, 0)) < attack.least:
        problems.append(f"the attacker sent {sent} {attack.unit} of at least {attack.least}")
    if result.arrived < attack.arrived:
        problems.append(f"{result.arrived} datagrams arrived of at least {attack.arrived}")
    return problems


# -- all of them, and what is told -----------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ratio(rounds: list[Round], what: str, share: float) -> float | None:
    """The median over the rounds of a percentile under attack, as a multiple of that in the quiet times around it."""
    found = []
    for result in rounds:
        quiet = [
            second for phase in (result.before, result.after) for second in getattr(phase, what).get("seconds", ())
        ]
        attacked = getattr(result.attack, what).get("seconds", ())
        if quiet and attacked:
            found.append(percentile(list(attacked), share) / percentile(quiet, share))
    return statistics.median(found) if found else None


def summary(name: str, rounds: list[Round]) -> dict[str, Any]:
    """One attack, as ``--json`` tells it."""
    attack = ATTACKS[name]
    calls = [second for result in rounds for second in result.attack.calls.get("seconds", ())]
    joins = [second for result in rounds for second in result.attack.joins.get("seconds", ())]
    peaks = [max(result.attack.rss_mib) for result in rounds if result.attack.rss_mib]
    rss = [max(r.attack.rss_mib) / max(r.before.rss_mib) for r in rounds if r.before.rss_mib and r.attack.rss_mib]
    return {
        "attack": name,
        "unit": attack.unit,
        "sent": [result.sent for result in rounds],
        "arrived": [result.arrived for result in rounds],
        "least": attack.least,
        "calls": len(calls),
        "joins": len(joins),
        "p50_ratio": ratio(rounds, "calls", 0.5),
        "p99_ratio": ratio(rounds, "calls", 0.99),
        "join_ratio": ratio(rounds, "joins", 0.5),
        "call_p50_ms": 1e3 * percentile(calls, 0.5) if calls else None,
        "call_p99_ms": 1e3 * percentile(calls, 0.99) if calls else None,
        "join_max_ms": 1e3 * max(joins) if joins else None,
        "rss_peak_mib": max(peaks, default=None),
        "rss_ratio": max(rss, default=None),
        "busy": [round(result.attack.busy, 2) for result in rounds],
        "busy_quiet": [round(result.before.busy, 2) for result in rounds],
        "problems": [problem for result in rounds for problem in judge(result, attack)],
    }


def line(told: dict[str, Any]) -> str:
    """The same for people, in 80 columns at most."""

    def number(value: float | None, width: int) -> str:
        return "-".rjust(width) if value is None else f"{value:{width}.{1 if value < 1000 else 0}f}"

    sent = statistics.median([sent.get(told["unit"], 0) for sent in told["sent"]]) if told["sent"] else 0
    cells = [f"{told['attack']:<18}{f'{sent:,.0f} ' + told['unit']:<20}"]
    cells += [number(told[name], 8) for name in ("p50_ratio", "p99_ratio", "join_ratio")]
    return "".join([*cells, number(told["rss_peak_mib"], 9), number(told["rss_ratio"], 6)])


HEADING: Final = f"{'attack':<18}{'sent per round':<20}{'p50 x':>8}{'p99 x':>8}{'join x':>8}{'RSS MiB':>9}{'x':>6}"


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def main(options: argparse.Namespace) -> int:
    rounds: dict[str, list[Round]] = {name: [] for name in options.only or ATTACKS}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(1, options.rounds + 1):
            for name, results in rounds.items():
                print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                results.append(Round())
                try:
                    await run_round(results[-1], name, directory, seconds=options.seconds, flat_out=options.flat_out)
                except* ChildDied as group:
                    results[-1].problems.extend(str(died) for died in leaves(group))
    told = [summary(name, results) for name, results in rounds.items()]
    problems = [f"{one['attack']}: {problem}" for one in told for problem in one["problems"]]
    if options.json:
        settings = {"seconds": options.seconds, "rounds": options.rounds, "flat_out": options.flat_out}
        limits = {"rss_growth_max_mib": RSS_GROWTH_MAX_MIB}
        print(json.dumps({"ok": not problems, "settings": settings, "limits": limits, "attacks": told}))
    else:
        print(HEADING)
        for one in told:
            print(line(one))
        for problem in problems:
            print(f"FAILED {problem}")
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ATTACKS, metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each attack; a quiet time has half of it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--flat-out", action="store_true", help="one call after the other instead of 100 per s")
    parser.add_argument("--json", action="store_true", help="one object for programs")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds must be above 0, --rounds at least 1")
    if not Path("/proc/self/status").exists():
        parser.error("memory is read from /proc, which this system does not have")
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        trio.run(CHILDREN[sys.argv[2]], *sys.argv[3:])
    else:
        sys.exit(trio.run(main, parse()))
