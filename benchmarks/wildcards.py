"""What it costs a node to listen on every address and to answer from the one that was asked.

    python benchmarks/wildcards.py

Two QUIC endpoints in one process exchange messages over loopback.  Only the socket of the one that listens differs:
on one address, on a wildcard that leaves the source to the system, on wildcards with packet information.  The ways take
turns, and the ratios are those of CPU time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from typing import Final

import attrs
import trio

from macula_trio._identity.files import Identity
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, QuicEndpoint
from macula_trio._net.udp import UdpNetwork, UdpSocket
from macula_trio._util import Address
from macula_trio.errors import ErrorCode

MESSAGE: Final = bytes(100)
IN_FLIGHT: Final = 8  # enough for the pump to take several at once, few enough that datagrams count


async def bind_uninformed() -> UdpSocket:
    """A wildcard that answers from wherever the system likes: without packet information."""
    await trio.lowlevel.checkpoint()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("0.0.0.0", 0))
    return UdpSocket(sock)


WAYS: Final = {
    "127.0.0.1": lambda: UdpNetwork().bind(("127.0.0.1", 0)),
    "0.0.0.0, source by the system": bind_uninformed,
    "0.0.0.0": lambda: UdpNetwork().bind(("0.0.0.0", 0)),
    "[::] dialed by IPv4": lambda: UdpNetwork().bind(("::", 0)),
}
BEFORE: Final = "0.0.0.0, source by the system"


class Echo:
    """Sends back what it gets."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def handshake_completed(self) -> None:
        self._connection.proven()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self._connection.write(stream_id, data)

    def stream_reset(self, stream_id: int) -> None:
        raise AssertionError("reset")

    def moved(self, old: Address, new: Address) -> None:
        raise AssertionError("moved")

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        pass


@attrs.define(eq=False)
class Asker:
    """Keeps some messages under way until enough have come back."""

    connection: Connection
    wanted: int
    done: trio.Event = attrs.field(factory=trio.Event)

    def handshake_completed(self) -> None:
        self.connection.proven()
        for _ in range(IN_FLIGHT):
            self.connection.write(CONTROL_STREAM, MESSAGE)

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        for _ in range(len(data) // len(MESSAGE)):
            self.wanted -= 1
            self.connection.write(CONTROL_STREAM, MESSAGE)
        if self.wanted <= 0:
            self.done.set()

    def stream_reset(self, stream_id: int) -> None:
        raise AssertionError("reset")

    def moved(self, old: Address, new: Address) -> None:
        raise AssertionError("moved")

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self.done.set()


async def exchange(way: str, messages: int) -> float:
    """CPU seconds of both ends for so many messages there and back, the handshake included."""
    identity = Identity.generate()
    server, client = await WAYS[way](), await UdpNetwork().bind(("127.0.0.1", 0))
    endpoints = [
        QuicEndpoint(sock, identity, accept=Echo, idle_timeout_s=30.0, random_bytes=os.urandom)
        for sock in (server, client)
    ]
    askers: list[Asker] = []

    def make(connection: Connection) -> Asker:
        askers.append(Asker(connection, messages))
        return askers[0]

    async with trio.open_nursery() as nursery:
        for endpoint in endpoints:
            await nursery.start(endpoint.serve)
        started = time.process_time()
        endpoints[1].dial(("127.0.0.1", server.address[1]), make)
        await askers[0].done.wait()
        spent = time.process_time() - started
        askers[0].connection.close(ErrorCode.NORMAL)
        nursery.cancel_scope.cancel()
    server.close()
    client.close()
    return spent


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--messages", type=int, default=4000)
    options = parser.parse_args()
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        order = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
        for way in order:
            spent[way].append(trio.run(exchange, way, options.messages))
    print(f"{'':<32}{'us a message':>14}{'ratio':>8}")
    for way, seconds in spent.items():
        ratio = statistics.median(one / before for one, before in zip(seconds, spent[BEFORE], strict=True))
        print(f"{way:<32}{1e6 * statistics.median(seconds) / options.messages:>14.1f}{ratio:>8.3f}")


if __name__ == "__main__":
    main()
