"""The honest processes of attacks.py: the node that is attacked, a node that calls it, and ever new ones that join."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio
from attack_children import Answer, Lines, answer_all, reply, requests

import macula_trio as macula

Found = tuple[object, float]
"""A result, and when it came."""

REALM: Final = "org.example.attacked"
PROCEDURE: Final = "bench.add"
CALLS_PER_S: Final = 100
CALL_PATIENCE_S: Final = 5.0  # a call without an answer for so long has failed
JOIN_PATIENCE_S: Final = 10.0  # the same, for joining and one call: two dials and their proofs
JOIN_PAUSE_S: Final = 0.25  # between two that join: they are to be noticed, not to be a load
FAILURES_TOLD_MAX: Final = 5  # texts; the number is told in any case


async def add(call: macula.Call) -> int:
    return int(call.args["a"]) + int(call.args["b"])


def config(**changes: Any) -> macula.NodeConfig:
    return macula.NodeConfig(realm=REALM, listen="127.0.0.1:0", **changes)


@attrs.define(eq=False)
class Tally:
    """How long something took, each time, and what went wrong."""

    seconds: list[float] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)

    async def note(self, since: float, what: Callable[[], Awaitable[Found]], wanted: object) -> None:
        """Do it once, timed from ``since``."""
        try:
            found, at = await what()
        except (macula.MeshError, trio.TooSlowError) as exc:
            self.failed.append(f"{type(exc).__name__}: {exc}")
            return
        if found == wanted:
            self.seconds.append(at - since)
        else:
            self.failed.append(f"wrong result {found!r} instead of {wanted!r}")

    def answer(self) -> Answer:
        return {"seconds": self.seconds, "failures": len(self.failed), "failed": self.failed[:FAILURES_TOLD_MAX]}


async def call_once(node: macula.Node, number: int) -> Found:
    with trio.fail_after(CALL_PATIENCE_S):
        return await node.call(PROCEDURE, {"a": number, "b": 1}), time.perf_counter()


async def serve_target() -> None:
    """The node that is attacked: bootstrap and only provider."""
    asked = requests()
    async with macula.open_node(config(role="bootstrap")) as node, node.advertise(PROCEDURE, add):
        reply(endpoint=node.endpoint, node_id=node.node_id.hex())
        quic = node._quic
        assert quic is not None

        async def answer(_request: Answer) -> Answer:
            counters = {name: value for name, value in attrs.asdict(quic.counters).items() if isinstance(value, int)}
            return counters | {"connections": quic.connections}

        await answer_all(asked, answer)


async def serve_caller(*, flat_out: bool) -> None:
    """Calls at a steady rate, whatever becomes of the earlier ones, or one after the other as fast as it can."""
    asked = requests()
    node_of = await asked.receive()
    assert node_of is not None
    async with macula.open_node(config(bootstrap=[node_of["endpoint"]], require_bootstrap=True)) as node:
        reply(node_id=node.node_id.hex())

        async def steadily(tally: Tally, seconds: float) -> None:
            begun, begun_s = trio.current_time(), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for number in range(int(seconds * CALLS_PER_S)):
                    after = number / CALLS_PER_S
                    await trio.sleep_until(begun + after)
                    # From when it was due: a caller that is held up must not hide how long others would have waited.
                    nursery.start_soon(tally.note, begun_s + after, lambda n=number: call_once(node, n), number + 1)

        async def one_by_one(tally: Tally, seconds: float) -> None:
            until, number = time.perf_counter() + seconds, 0
            while time.perf_counter() < until:
                number += 1
                await tally.note(time.perf_counter(), lambda n=number: call_once(node, n), number + 1)

        async def answer(request: Answer) -> Answer:
            tally = Tally()
            await (one_by_one if flat_out else steadily)(tally, request["seconds"])
            return tally.answer()

        await answer_all(asked, answer)


async def join_once(endpoint: str) -> Found:
    """Be a new node, and call; what leaving takes is not counted."""
    joining = config(bootstrap=[endpoint], require_bootstrap=True, leaf=True, join_deadline_s=JOIN_PATIENCE_S)
    with trio.fail_after(JOIN_PATIENCE_S):
        async with macula.open_node(joining) as node:
            found = await node.call(PROCEDURE, {"a": 1, "b": 1}), time.perf_counter()
    return found


async def serve_joiner() -> None:
    """One new node after the other."""
    asked: Lines = requests()

    async def answer(request: Answer) -> Answer:
        tally, until = Tally(), time.perf_counter() + request["seconds"]
        while time.perf_counter() < until:
            await tally.note(time.perf_counter(), lambda: join_once(request["endpoint"]), 2)
            await trio.sleep(JOIN_PAUSE_S)
        return tally.answer()

    await answer_all(asked, answer)
