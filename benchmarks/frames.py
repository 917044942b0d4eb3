"""What a network of frames costs: small questions, DHT queries and lookups, and bringing a mesh up.

Everything runs in one process and one thread, on virtual time; what is told is wall time.  The frames are encoded,
carried and decoded.  The cost of a question is set against that of encoding and decoding its two frames alone,
measured in turn with it, because machines differ and are busy with other things.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import platform
import statistics
import time
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from macula_trio._events import Event, EventBus
from macula_trio._ids import Contact
from macula_trio._peer.handshake import LocalParty
from macula_trio._trust import Trust
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_frame, decode_message, encode_message
from macula_trio._wire.frame import Frame
from macula_trio.abc import Message
from macula_trio.testing._frame_node import FrameNode, frame_identity, open_frame_mesh
from macula_trio.testing.frames import FrameLink, FrameNetwork, FrameTransport

REALM = "org.example.bench"
ASKS_PER_ROUND = 20_000
CODEC_PER_ROUND = 5_000
CONTACTS = 20
QUIET_S = 0.8  # of virtual time until the first node refreshes its table: behind that the others drown what is measured


class Table:
    """Lines of at most 80 columns."""

    def add(self, what: str, value: str, remark: str = "") -> None:
        print(f"{what:<38}{value:>12}  {remark}"[:80].rstrip(), flush=True)


def through_codec(message: Message) -> None:
    decode_message(Frame(*decode_frame(encode_message(message))))


def codec_alone_s(number: int = 2**50) -> float:
    """Seconds for one PING and its PONG to be encoded and decoded, without any network."""
    started = time.perf_counter()
    for _ in range(CODEC_PER_ROUND):
        through_codec(wire.Ping(timestamp=number))
        through_codec(wire.Pong(timestamp=number, server_time=1_735_689_600_000))
    return (time.perf_counter() - started) / CODEC_PER_ROUND


async def timed(action: Callable[[], Awaitable[object]], count: int) -> float:
    """Seconds of wall time for one of ``count``."""
    started = time.perf_counter()
    await action()
    return (time.perf_counter() - started) / count


def transport_of(network: FrameNetwork, number: int) -> tuple[FrameTransport, Contact]:
    name = f"t{number}"
    endpoint = network.endpoint_of(name)
    identity = frame_identity(network, name)
    party = LocalParty(credentials=identity, instance=bytes(16), realm=REALM, trust=Trust.open(), endpoint=endpoint)
    transport = FrameTransport(network, name, party=party, events=EventBus(trio.current_time))
    return transport, Contact(node_id=identity.node_id, endpoint=endpoint)


async def bench_asks(table: Table, nodes: int, seconds: float) -> None:
    """PING and PONG between many nodes, each asking the next one."""
    network = FrameNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve)
        ends = [transport_of(network, number) for number in range(nodes)]
        links = [await transport.link_to(ends[number - 1][1]) for number, (transport, _) in enumerate(ends)]
        per_link = max(1, ASKS_PER_ROUND // nodes)

        async def ask(link: FrameLink) -> None:
            for number in range(per_link):
                await link.ask(wire.Ping(timestamp=2**50 + number), wire.Pong)

        async def ask_all() -> None:
            async with trio.open_nursery() as askers:
                for link in links:
                    askers.start_soon(ask, link)

        gc.collect()
        gc.freeze()  # thousands of nodes that live to the end: looking through them again and again costs a quarter
        rounds, codecs = list[float](), list[float]()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(rounds) < 3:
            rounds.append(await timed(ask_all, per_link * nodes))
            codecs.append(codec_alone_s())
        gc.unfreeze()
        nursery.cancel_scope.cancel()
    middle, best = statistics.median(rounds), min(rounds)
    table.add("PING/PONG pairs by link.ask", f"{1 / middle:,.0f}/s", f"best round {1 / best:,.0f}/s")
    ratio = statistics.median(spent / codec for spent, codec in zip(rounds, codecs, strict=True))
    table.add("  one pair", f"{middle * 1e6:.1f} us", f"{ratio:.1f} times its codec alone")


def find_node_reply() -> wire.FindNodeReply:
    entries = [(hashlib.sha256(b"%d" % number).digest(), f"10.64.0.{number}:9443") for number in range(CONTACTS)]
    nodes = tuple(wire.NodeEntry(node_id=node_id, address=address) for node_id, address in entries)
    return wire.FindNodeReply(nodes=nodes, correlation_id=bytes(16))


async def bench_queries(table: Table, nodes: list[FrameNode], until_s: float) -> None:
    """One FIND_NODE and its answer of 20 contacts, over links that are open, to all peers of one node at once."""
    links = nodes[len(nodes) // 2].transport.links
    reply = find_node_reply()
    number, contacts = 0, 0

    async def ask(link: FrameLink) -> None:
        nonlocal number, contacts
        number += 1
        question = wire.FindNode(target=hashlib.sha256(b"%d" % number).digest(), correlation_id=b"%16d" % number)
        answer = await link.ask(question, wire.FindNodeReply)
        contacts += len(answer.nodes)

    async def ask_all() -> None:
        async with trio.open_nursery() as askers:
            for link in links:
                askers.start_soon(ask, link)

    rounds, codecs = list[float](), list[float]()
    while trio.current_time() < until_s:
        rounds.append(await timed(ask_all, len(links)))
        started = time.perf_counter()
        for _ in range(CONTACTS):
            through_codec(wire.FindNode(target=bytes(32), correlation_id=bytes(16)))
            through_codec(reply)
        codecs.append((time.perf_counter() - started) / CONTACTS)
    ratio = statistics.median(spent / codec for spent, codec in zip(rounds, codecs, strict=True))
    table.add("one FIND_NODE with its answer", f"{statistics.median(rounds) * 1e6:,.0f} us", f"{ratio:.1f} times codec")
    table.add("  contacts in an answer", f"{contacts / number:.1f}")


async def bench_lookups(
    table: Table, network: FrameNetwork, nodes: list[FrameNode], dials: list[Event], until_s: float
) -> None:
    """Whole lookups of random ids, from many nodes in turn."""
    frames, dialed, count, found = network.statistics().frames, len(dials), 0, 0
    spent = list[float]()
    while trio.current_time() < until_s:
        target = hashlib.sha256(b"lookup %d" % count).digest()
        started = time.perf_counter()
        contacts = await nodes[(count + 1) * 7 % len(nodes)].find_node(target)
        spent.append(time.perf_counter() - started)
        nearest = sorted(nodes, key=lambda node: node.node_id.distance(target))[: len(contacts)]
        found += len({node.node_id for node in nearest} & {contact.node_id for contact in contacts})
        count += 1
    dialed = len(dials) - dialed
    queries = (network.statistics().frames - frames - 4 * dialed) / 2  # a dial puts four frames on their way
    table.add("one find_node lookup", f"{statistics.median(spent) * 1e3:.1f} ms", f"median of {count}")
    table.add("  queries in it", f"{queries / count:.1f}", f"and {dialed / count:.1f} dials")
    table.add("  of the 20 nearest, found", f"{found / count:.2f}")


async def bench_mesh(table: Table, size: int) -> None:
    network = FrameNetwork(seed=1)
    dials: list[Event] = []

    def listener(event: Event) -> None:
        if event.name == "link.opened" and event.facts["dialed"]:
            dials.append(event)

    started = time.perf_counter()
    for number in range(size):
        frame_identity(network, f"n{number}")
    table.add(f"{size} identities", f"{time.perf_counter() - started:.1f} s")
    started, started_s = time.perf_counter(), trio.current_time()
    async with open_frame_mesh(size, network=network, listener=listener) as nodes:
        virtual_s = trio.current_time() - started_s
        table.add(f"bringing {size} nodes up", f"{time.perf_counter() - started:.1f} s", f"{virtual_s:.2f} s virtual")
        counts = network.statistics()
        table.add("  frames", f"{counts.frames:,}", f"{counts.frame_bytes / 1e6:.0f} MB, {len(dials):,} dials")
        quiet_s = started_s + QUIET_S - trio.current_time()
        await bench_queries(table, nodes, trio.current_time() + quiet_s / 4)
        await bench_lookups(table, network, nodes, dials, started_s + QUIET_S)


async def main(nodes: int, seconds: float) -> None:
    table = Table()
    print(f"{nodes} nodes, Trio {trio.__version__}, Python {platform.python_version()}")
    await bench_asks(table, nodes, seconds)
    await bench_mesh(table, nodes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000, help="2 to 1000")
    parser.add_argument("--seconds", type=float, default=5.0, help="of wall time for the pairs")
    options = parser.parse_args()
    trio.run(main, options.nodes, options.seconds, clock=trio.testing.MockClock(autojump_threshold=0))
