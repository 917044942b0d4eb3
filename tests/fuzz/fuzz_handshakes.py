"""Real QUIC handshakes over a wire that the fuzzer rules: nothing escapes from the pump, and nobody else is harmed.

A dialer and a listener, both `QuicEndpoint`s with real aioquic under them, exchange datagrams that are flipped, cut,
doubled, held back, lost and spliced, or send TLS messages that were changed before they were encrypted.  Afterwards
both must have forgotten each other, and complete a handshake with somebody honest.

The pump's synchronous parts are driven here one by one, so that a whole life of a connection costs milliseconds.  All
entropy but the key shares, which come from OpenSSL, follows from nothing but the input.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Final, TypeAlias

import trio
import trio.testing
from fuzz_tools import Choices, vary
from quic_tools import Recorder, credentials, leftovers

from macula_trio._net import admission
from macula_trio._net.quic import CONTROL_STREAM, Connection, QuicEndpoint
from macula_trio._util import Address
from macula_trio.abc import DatagramSocket
from macula_trio.errors import ErrorCode
from macula_trio.testing._determinism import deterministic

__all__ = ["fuzz_one", "seeds", "vary"]

DIALER, LISTENER, HONEST, STRANGER = (("10.7.0.1", 1), ("10.7.0.2", 2), ("10.7.0.3", 3), ("10.7.0.4", 4))
WIRE, CLIENT_TLS, SERVER_TLS, RETRY = (
    1,
    2,
    4,
    8,
)  # bits of the first byte: what is spoilt, and whether Retry is demanded
Datagram: TypeAlias = tuple[Address, Address, bytes]
"""From, to, and what."""

CARRY, LOSE, HOLD, DOUBLE, CUT, FLIP, SPLICE, REPLAY, INVENT = range(9)
OPERATIONS: Final = 9
LATENCY_S: Final = 0.01
ROUNDS_MAX: Final = 4000  # of the wire, until everything is quiet: a connection's life has some fifty
SPOILT_MAX: Final = 64  # datagrams; afterwards the wire is honest
VERSION_OF_CERTIFICATE: Final = 18  # where it stands in a Certificate message; aioquic bears no odd one
HANDSHAKE_HEADER_BYTES: Final = 4  # type and length (RFC 8446, section 4)


def seeds() -> list[bytes]:
    plain = [bytes([mode]) for mode in range(16)]
    # An operation for each of the first datagrams, as `_spoil` reads them.
    spoilt = [
        bytes([WIRE | mode, *(0 for _ in range(where)), operation, 7, 50, 99, 1, 60])
        for mode in (0, RETRY)
        for operation in range(LOSE, OPERATIONS)
        for where in range(4)
    ]
    # Some messages of TLS pass, then one is changed: which one, how, where, by what.
    tls = [
        bytes([mode, *(0 for _ in range(where)), 1, message, how, 0, place, 1, 0x07])
        for mode in (CLIENT_TLS, SERVER_TLS)
        for where in range(2)
        for message in range(4)
        for how in range(4)
        for place in (0, 2, VERSION_OF_CERTIFICATE, 40)
    ]
    return [*plain, *spoilt, *tls]


def fuzz_one(data: bytes) -> None:
    choices = Choices(data)
    mode, free = choices.below(16), admission.HALF_OPEN_FREE
    clock = trio.testing.MockClock()
    with deterministic(0):
        try:
            admission.HALF_OPEN_FREE = 0 if mode & RETRY else free  # type: ignore[misc]  # a constant to everybody else
            trio.run(_live, choices, mode, clock, clock=clock)
        finally:
            admission.HALF_OPEN_FREE = free  # type: ignore[misc]


async def _live(choices: Choices, mode: int, clock: trio.testing.MockClock) -> None:
    await trio.lowlevel.checkpoint()
    world = World(choices, mode, clock)
    attacked = world.dial(DIALER, LISTENER)
    world.run_until(clock.current_time() + 1)
    attacked.connection.close(ErrorCode.NORMAL)
    world.run_until(inf)
    assert {recorder.losses for recorder in (attacked, *world.accepted)} == {1}
    world.is_spoilt = False
    world.exchange(HONEST, LISTENER)
    world.exchange(DIALER, HONEST)


class Proving(Recorder):
    """A listener that takes everybody for proven."""

    def handshake_completed(self) -> None:
        super().handshake_completed()
        self.connection.proven()


class World:
    """Three endpoints and the wire between them."""

    def __init__(self, choices: Choices, mode: int, clock: trio.testing.MockClock) -> None:
        self._choices = choices
        self._mode = mode
        self._clock = clock
        self._wire: deque[Datagram] = deque()
        self._seen: list[bytes] = []
        self.is_spoilt = True
        self.accepted: list[Recorder] = []
        self._endpoints = {address: self._endpoint(address) for address in (DIALER, LISTENER, HONEST)}

    def _endpoint(self, address: Address) -> QuicEndpoint:
        return QuicEndpoint(
            FakeSocket(address, self._wire),
            credentials(address[1]),
            accept=self._accept,
            idle_timeout_s=30.0,
            random_bytes=os.urandom,
        )

    def _accept(self, connection: Connection) -> Recorder:
        self.accepted.append(Proving(connection))
        if self.is_spoilt and self._mode & SERVER_TLS:
            self._spoil_tls(connection)
        return self.accepted[-1]

    def dial(self, source: Address, target: Address) -> Recorder:
        recorders: list[Recorder] = []

        def make(connection: Connection) -> Recorder:
            recorders.append(Recorder(connection))
            if self.is_spoilt and self._mode & CLIENT_TLS:
                self._spoil_tls(connection)
            return recorders[0]

        self._endpoints[source].dial(target, make)
        return recorders[0]

    def exchange(self, source: Address, target: Address) -> None:
        """Somebody honest gets through, and nothing is left of it."""
        before = len(self.accepted)
        dialed = self.dial(source, target)
        self.run_until(self._clock.current_time() + 1)
        assert dialed.completed.is_set()
        (accepted,) = self.accepted[before:]
        dialed.write(b"hello")
        self.run_until(self._clock.current_time() + 1)
        assert accepted.data == {CONTROL_STREAM: b"hello"}
        dialed.connection.close(ErrorCode.NORMAL)
        self.run_until(inf)
        assert (dialed.losses, accepted.losses) == (1, 1)

    # -- time goes on -----------------------------------------------------------------------------------------------

    def run_until(self, end: float) -> None:
        """What a pump does, for every endpoint; at infinity everything must be forgotten."""
        self._flush()
        for _ in range(ROUNDS_MAX):
            now = self._clock.current_time()
            due = min(endpoint._pump.next_due for endpoint in self._endpoints.values())
            at = min(now + LATENCY_S if self._wire else inf, max(due, now))
            if at > end or at == inf:
                break
            self._clock.jump(at - now)
            self._deliver(at)
            for endpoint in self._endpoints.values():
                endpoint._pump.fire_due(self._clock.current_time())
            self._flush()
        else:
            raise AssertionError(f"not quiet after {ROUNDS_MAX} rounds")
        if end == inf:
            left = [leftovers(endpoint) for endpoint in self._endpoints.values()]
            assert left == [{}, {}, {}], left

    def _deliver(self, now: float) -> None:
        for _ in range(len(self._wire)):
            source, target, data = self._wire.popleft()
            if self.is_spoilt and self._mode & WIRE and not self._choices.is_empty and len(self._seen) < SPOILT_MAX:
                self._seen.append(data)
                carried = self._spoil(source, target, data)
            else:
                carried = [(source, target, data)]
            for sender, receiver, arriving in carried:
                if receiver in self._endpoints:
                    self._endpoints[receiver].received(arriving, sender, now)

    def _flush(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint._pump.flush_written()
            endpoint._pump.flush_read()

    # -- what the fuzzer does ---------------------------------------------------------------------------------------

    def _spoil(self, source: Address, target: Address, data: bytes) -> list[Datagram]:
        """One operation on one datagram; what arrives in its place."""
        choices, here = self._choices, (source, target, data)
        operation = choices.below(OPERATIONS)
        if operation == LOSE:
            return []
        if operation == HOLD:
            self._wire.append(here)
            return []
        if operation == DOUBLE:
            return [here, here]
        if operation == CUT:
            return [(source, target, data[: choices.below(1 << 16) % (len(data) + 1)])]
        if operation == FLIP:
            changed = bytearray(data)
            for _ in range(1 + choices.below(4)):
                if changed:
                    changed[choices.below(1 << 16) % len(changed)] ^= choices.below(256)
            return [(source, target, bytes(changed))]
        return [here] if operation == CARRY else [self._inject(operation, here), here]

    def _inject(self, operation: int, here: Datagram) -> Datagram:
        """One datagram that nobody sent, made of what was seen so far."""
        (source, target, data), choices = here, self._choices
        other = self._seen[choices.below(len(self._seen))]
        if operation == SPLICE:
            at = choices.below(1 << 16)
            return source, target, data[:at] + other[at:]
        if operation == REPLAY:
            return (source, target, STRANGER)[choices.below(3)], (DIALER, LISTENER)[choices.below(2)], other
        return source, target, choices.take(choices.below(64))

    def _spoil_tls(self, connection: Connection) -> None:
        """Change what TLS says before it is encrypted, so that it arrives in valid packets."""
        client = connection._quic

        def push() -> None:
            for epoch, buffer in client._crypto_buffers.items():
                said = bytes(buffer.data)
                buffer.seek(0)
                client._crypto_streams[epoch].sender.write(self._spoil_messages(said) if said else said)

        client._push_crypto_data = push  # type: ignore[method-assign]

    def _spoil_messages(self, said: bytes) -> bytes:
        choices = self._choices
        if choices.is_empty or not choices.below(2):
            return said
        messages = _split(said)
        index = choices.below(len(messages))
        how = choices.below(4)
        body = bytearray(messages[index][1])
        at = choices.below(1 << 16) % (len(body) + 1)
        patch = choices.take(choices.below(32))
        body[at : at + (len(patch) if how in (0, 3) else choices.below(64))] = patch
        messages[index] = (messages[index][0] if how < 3 else choices.below(256), bytes(body))
        if how == 2:
            messages.insert(index, messages[index])
        return b"".join(bytes([kind]) + len(body).to_bytes(3, "big") + body for kind, body in messages)


def _split(said: bytes) -> list[tuple[int, bytes]]:
    """The messages of TLS that somebody says at once: type and body."""
    messages, start = list[tuple[int, bytes]](), 0
    while start < len(said):
        end = start + HANDSHAKE_HEADER_BYTES + int.from_bytes(said[start + 1 : start + 4], "big")
        messages.append((said[start], said[start + HANDSHAKE_HEADER_BYTES : end]))
        start = end
    return messages


class FakeSocket:
    """Puts what is sent on the wire; what arrives is handed to the endpoint by the test."""

    datagrams_lost = 0
    large_datagrams = False

    def __init__(self, address: Address, wire: deque[Datagram]) -> None:
        self.address = address
        self._wire = wire

    def recv_batch(self) -> list[tuple[bytes, Address]]:
        return []

    def send_batch(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        self._wire.extend((self.address, target, data) for data, target in datagrams)

    async def wait_readable(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        pass


def _conforms(socket: FakeSocket) -> DatagramSocket:
    return socket  # mypy proves it
