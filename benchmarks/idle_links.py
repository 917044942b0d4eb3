"""What links cost that nobody uses: memory at each end, and the time of a processor for signs of life.

    python benchmarks/idle_links.py [--links 2000] [--seconds 60]

One process holds one end of all links, a hub; another one, the crowd, holds a peer with a socket of its own at the
other end of each.  All is real: UDP on loopback, TLS, both proofs.  Each row is a new pair of processes: the hub dials,
or is dialed, and silent peers are asked every 30 s, or never.  Memory is what the hub grew by, processor time what it
used while nothing else happened; both count the hub alone, so they are for one end.

Machines differ by much more than that, and in a process that mostly sleeps everything is cold.  So the last lines tell
what this machine takes at least: for Trio alone, a datagram that is sent and one that comes back, as often as there
were PINGs; and for aioquic alone, in memory and without a pause, one datagram from end to end.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from math import nan
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Final

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._identity.files import Identity
from macula_trio._ids import Contact
from macula_trio._net.admission import Admission
from macula_trio._net.quic import QuicEndpoint
from macula_trio._net.tls import ConnectionMaker
from macula_trio._net.udp import UdpNetwork
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.registry import LinkPolicy, LinkRegistry
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint

REALM: Final = "org.example.bench"
KEEPALIVES_S: Final = {"every 30 s": 30.0, "never": 86_400.0}
AT_ONCE: Final = 16  # handshakes: more would meet the deadline of a listener on a slow machine
SETTLE_S: Final = 5.0  # what the handshakes have left behind is done


@attrs.frozen
class Peer:
    """One party with its socket and its links."""

    registry: LinkRegistry
    contact: Contact


@asynccontextmanager
async def open_peer(*, keepalive_s: float, links_max: int) -> AsyncGenerator[Peer, None]:
    """A peer on a free port of loopback, for the length of the block."""
    network = UdpNetwork()
    socket = await network.bind(("127.0.0.1", 0))
    identity = Identity.generate()
    endpoint = format_endpoint(socket.address)
    party = LocalParty(
        credentials=identity, instance=os.urandom(16), realm=REALM, trust=Trust.open(), endpoint=endpoint
    )
    registry = LinkRegistry(
        party,
        events=EventBus(trio.current_time),
        wall_clock_ms=network.wall_clock_ms,
        random_fraction=random.random,
        policy=LinkPolicy(dial_deadline_s=30, keepalive_s=keepalive_s, links_max=links_max, link_idle_s=86_400),
    )
    quic = QuicEndpoint(
        socket,
        identity,
        accept=registry.accept,
        idle_timeout_s=3 * keepalive_s,
        random_bytes=os.urandom,
        admission=Admission(connections_max=2 * links_max),
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(quic.serve)
            await nursery.start(partial(registry.serve, quic))
            yield Peer(registry, Contact(node_id=identity.node_id, endpoint=endpoint))
            nursery.cancel_scope.cancel()
    finally:
        socket.close()


async def dial_all(peer: Peer, contacts: list[Contact]) -> None:
    """Open a link to each."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def dial(contact: Contact) -> None:
        async with limiter:
            await peer.registry.link_to(contact)

    async with trio.open_nursery() as nursery:
        for contact in contacts:
            nursery.start_soon(dial, contact)


async def crowd(pipe: Pipe, links: int, keepalive_s: float, *, hub_dials: bool) -> None:
    """Be the other ends until told to end."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(open_peer(keepalive_s=keepalive_s, links_max=8)) for _ in range(links)]
        pipe.send([(bytes(peer.contact.node_id), peer.contact.endpoint) for peer in peers])
        hub_id, hub_endpoint = await trio.to_thread.run_sync(pipe.recv)
        hub = Contact(node_id=type(peers[0].contact.node_id)(hub_id), endpoint=hub_endpoint)
        if not hub_dials:
            limiter = trio.CapacityLimiter(AT_ONCE)

            async def dial(peer: Peer) -> None:
                async with limiter:
                    await peer.registry.link_to(hub)

            async with trio.open_nursery() as dials:
                for peer in peers:
                    dials.start_soon(dial, peer)
        pipe.send("linked")
        await trio.to_thread.run_sync(pipe.recv)


@attrs.frozen
class Cost:
    """Of one end of one link.

    Attributes:
      memory_kib: resident, in KiB.
      cpu_percent: of one core, for all links together.
      pings: that the hub sent.
    """

    memory_kib: float
    cpu_percent: float
    pings: int


async def ask_barely(pipe: Pipe, links: int, seconds: float) -> float:
    """Send a datagram as often as links send PINGs, and wait for its answer; returns % of a core."""
    pauses = round(seconds * links / min(KEEPALIVES_S.values()))
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        await asking.bind(("127.0.0.1", 0))
        target = pipe.recv()
        began, used = time.monotonic(), time.process_time()
        for _ in range(pauses):
            await trio.sleep(seconds / pauses)
            await asking.sendto(bytes(60), target)
            with trio.move_on_after(1):  # lost, which on loopback it is not
                await asking.recvfrom(2000)
        cpu_percent = 100 * (time.process_time() - used) / (time.monotonic() - began)
        await asking.sendto(b"", target)
    return cpu_percent


def answer_barely(pipe: Pipe) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
        answering.bind(("127.0.0.1", 0))
        pipe.send(answering.getsockname())
        while True:
            data, source = answering.recvfrom(2000)
            if not data:
                break
            answering.sendto(data, source)


def aioquic_datagram_us(rounds: int = 3000) -> float:
    """What aioquic takes for a small datagram, to write and to read it."""
    maker = ConnectionMaker(credentials=Identity.generate(), idle_timeout_s=3600, keylog=None)
    dialing, _ = maker.dialed(1452, None)
    accepting, _ = maker.accepted(1452, dialing.original_destination_connection_id, None)
    now, datagrams = 0.0, 0

    def deliver() -> None:
        nonlocal now, datagrams
        now += 0.005
        for one, other, source in ((dialing, accepting, ("one", 1)), (accepting, dialing, ("other", 2))):
            for data, _ in one.datagrams_to_send(now=now):
                other.receive_datagram(data, source, now=now)
                datagrams += 1
            while other.next_event() is not None:
                pass

    dialing.connect(("other", 2), now=now)
    for _ in range(10):
        deliver()
    began, datagrams = time.process_time(), 0
    for _ in range(rounds):
        dialing.send_stream_data(0, bytes(40))
        deliver()
    return 1e6 * (time.process_time() - began) / datagrams


async def hub(pipe: Pipe, links: int, keepalive_s: float, seconds: float, *, hub_dials: bool) -> Cost:
    """Hold one end of all links, and measure."""
    others = [Contact(node_id=Identity.generate().node_id, endpoint="127.0.0.1:1")]  # imports are not what we measure
    async with open_peer(keepalive_s=keepalive_s, links_max=links) as peer:
        make_id = type(others[0].node_id)
        contacts = [Contact(node_id=make_id(node_id), endpoint=endpoint) for node_id, endpoint in pipe.recv()]
        gc.collect()
        before = resident_kib()
        pipe.send((bytes(peer.contact.node_id), peer.contact.endpoint))
        if hub_dials:
            await dial_all(peer, contacts)
        await trio.to_thread.run_sync(pipe.recv)
        await trio.sleep(SETTLE_S)
        gc.collect()
        memory_kib = (resident_kib() - before) / links
        assert len(peer.registry.links) == links, len(peer.registry.links)
        pings, began, used = peer.registry.counters.sent["PING"], time.monotonic(), time.process_time()
        await trio.sleep(seconds)
        cpu_percent = 100 * (time.process_time() - used) / (time.monotonic() - began)
        assert len(peer.registry.links) == links, len(peer.registry.links)
        cost = Cost(memory_kib, cpu_percent, peer.registry.counters.sent["PING"] - pings)
        pipe.send("end")
    return cost


def resident_kib() -> float:
    """Of this process; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def run_and_tell(result: Pipe, measured: partial[Coroutine[None, None, Cost | float]]) -> None:
    result.send(trio.run(measured))


def measure(links: int, keepalive_s: float, seconds: float, *, hub_dials: bool) -> Cost:
    """One row, in two processes of its own."""
    context = multiprocessing.get_context("spawn")
    (here, there), (result, results) = context.Pipe(), context.Pipe(duplex=False)
    processes = [
        context.Process(target=trio.run, args=(partial(crowd, there, links, keepalive_s, hub_dials=hub_dials),)),
        context.Process(
            target=run_and_tell, args=(results, partial(hub, here, links, keepalive_s, seconds, hub_dials=hub_dials))
        ),
    ]
    for process in processes:
        process.start()
    results.close()
    cost: Cost = result.recv()
    for process in processes:
        process.join()
    return cost


def measure_barely(links: int, seconds: float) -> float:
    """The same rhythm without links, in two processes of its own; % of a core."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=answer_barely, args=(there,))
    process.start()
    cpu_percent = trio.run(ask_barely, here, links, seconds)
    process.join()
    return cpu_percent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which processor time is measured")
    options = parser.parse_args()
    ping_us = nan
    print(f"{options.links} idle links, one end of each, {options.seconds:g} s")
    print(f"{'this end':<10}{'signs of life':<16}{'KiB per link':>14}{'% of a core':>14}{'PINGs sent':>12}")
    for hub_dials in (True, False):
        for name, keepalive_s in KEEPALIVES_S.items():
            cost = measure(options.links, keepalive_s, options.seconds, hub_dials=hub_dials)
            end = "dialed" if hub_dials else "accepted"
            print(f"{end:<10}{name:<16}{cost.memory_kib:>14.1f}{cost.cpu_percent:>14.2f}{cost.pings:>12}", flush=True)
            if hub_dials and cost.pings:
                ping_us = 1e4 * cost.cpu_percent * options.seconds / cost.pings
    barely, datagram_us = measure_barely(options.links, options.seconds), aioquic_datagram_us()
    print(f"bare datagrams in the same rhythm, by Trio alone: {barely:.2f} % of a core")
    print(
        f"aioquic alone: {datagram_us:.0f} us for a datagram; a PING costs its end {ping_us / datagram_us:.1f} of those"
    )


if __name__ == "__main__":
    main()
