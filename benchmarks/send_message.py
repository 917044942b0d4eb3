"""What a live link is worth to fire and forget: `node.send_message` over one, and over connections that end behind it.

    python benchmarks/send_message.py

All nodes are in one process and talk over real UDP on loopback, so both ends share one core; a message counts when the
other node has it.  The ways take turns, and a ratio is the median of those of the rounds: machines differ, and are busy
with other things.  "At once" with a link is as many tasks that send one message after another; without one, each task
has a peer of its own, because messages that are sent to one peer at the same time share a connection.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import attrs
import trio

import macula_trio as macula
from macula_trio.wire import MessageType

REALM: Final = "org.example.bench"
BODY: Final = {"procedure": "bench.nobody", "args": bytes(100)}
TASKS: Final = 16
PATIENCE_S: Final = 10  # for all to arrive


@attrs.frozen
class Way:
    """How messages are sent.

    Attributes:
      name: for the table.
      messages: of one round.
      tasks: that send at the same time.
      has_link: whether there is a live link.
      apart: whether each task has a peer of its own.
    """

    name: str
    messages: int
    tasks: int
    has_link: bool
    apart: bool = False


LINK_ONE_BY_ONE: Final = Way("live link, one by one", 3000, 1, has_link=True)
LINK_AT_ONCE: Final = Way(f"live link, {TASKS} at once", 10_000, TASKS, has_link=True)
ALONE_ONE_BY_ONE: Final = Way("no link, one by one", 30, 1, has_link=False)
ALONE_AT_ONCE: Final = Way(f"no link, {TASKS} at once, a peer each", 2 * TASKS, TASKS, has_link=False, apart=True)
SHARED: Final = Way("no link, 1000 at once, one peer", 1000, 1000, has_link=False)
WAYS: Final = (LINK_ONE_BY_ONE, LINK_AT_ONCE, ALONE_ONE_BY_ONE, ALONE_AT_ONCE, SHARED)


def contact_of(node: macula.Node) -> macula.Contact:
    return macula.Contact(node_id=node.node_id, endpoint=node.endpoint)


def taken(nodes: Sequence[macula.Node]) -> int:
    return sum(node.statistics().frames_received.get("CAST", 0) for node in nodes)


async def run(way: Way, sender: macula.Node, nodes: Sequence[macula.Node]) -> float:
    """Messages per second until the last one was there."""
    targets = nodes if way.apart else nodes[:1]
    before = taken(targets)

    async def send(number: int) -> None:
        contact = contact_of(targets[number % len(targets)])
        for _ in range(way.messages // way.tasks):
            await sender.send_message(contact, MessageType.CAST, BODY)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(way.tasks):
            nursery.start_soon(send, number)
    with trio.fail_after(PATIENCE_S):
        while True:
            await trio.sleep(0.0005)
            if taken(targets) - before >= way.messages:
                break
    return way.messages / (time.perf_counter() - started)


async def main(rounds: int) -> None:
    """Print the table."""
    config = macula.NodeConfig(realm=REALM, listen="127.0.0.1:0")
    per_s: dict[Way, list[float]] = {way: [] for way in WAYS}
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(macula.open_node(config)) for _ in range(TASKS)]
        # Leaves enter no tables, so nobody dials them.  One keeps links; the other one would soon have some, too, to
        # those whom it has met, but that it keeps none.
        keeper = await stack.enter_async_context(macula.open_node(attrs.evolve(config, leaf=True)))
        config = attrs.evolve(config, leaf=True, connections="per-message")
        loner = await stack.enter_async_context(macula.open_node(config))
        for node in nodes:
            await keeper.ping(contact_of(node))
            await loner.ping(contact_of(node))
        await trio.sleep(1)  # whom they have met they look around by
        for _ in range(rounds):
            for way in WAYS:
                per_s[way].append(await run(way, keeper if way.has_link else loner, nodes))
                await trio.sleep(0.3)  # what was closed is forgotten by QUIC a moment later
        unconfirmed = loner.statistics().messages_unconfirmed
    print(f"{'':<40}{'messages/s':>12}{'ratio':>8}")
    for way, figures in per_s.items():
        alone = {LINK_ONE_BY_ONE: ALONE_ONE_BY_ONE, LINK_AT_ONCE: ALONE_AT_ONCE}.get(way)
        ratio = ""
        if alone is not None:
            ratio = f"{statistics.median(one / other for one, other in zip(figures, per_s[alone], strict=True)):.0f}"
        print(f"{way.name:<40}{statistics.median(figures):>12,.0f}{ratio:>8}")
    print(f"ratio: to the same without a link; {unconfirmed} messages not confirmed within 100 ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    trio.run(main, parser.parse_args().rounds)
