"""What anybody can send to the port: it is counted, costs a bounded amount, and harms nobody else."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from aioquic import tls
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from quic_tools import PATIENCE_S, Proving, Recorder, connect_bare, dial_bare, host, leftovers, open_endpoint

import macula_trio as macula
from macula_trio._net import admission, connection, pump
from macula_trio._net.admission import HALF_OPEN_FREE
from macula_trio._net.connection import WITHHELD_UNPROVEN_MAX
from macula_trio._net.quic import HANDSHAKE_DEADLINE_S, CloseReason, Connection, QuicEndpoint
from macula_trio._util import Address, parse_endpoint
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing.network import SimSocket

TARGET = host(1)
FULL = 1200
V1 = bytes.fromhex("00000001")


async def an_honest_exchange(endpoint: QuicEndpoint, target: Address = TARGET) -> None:
    """Somebody who plays by the rules gets through."""
    recorder = await connect_bare(endpoint, target)
    recorder.write(b"hello")
    await trio.sleep(0.1)
    assert not recorder.closed.is_set()
    recorder.connection.close(ErrorCode.NORMAL)
    await trio.sleep(1)


def initial(*, destination: bytes = bytes(8), token: bytes = b"", size: int = FULL, version: bytes = V1) -> bytes:
    """A client's first packet with a good header and nothing that anybody could decrypt."""
    head = b"\xc3" + version + bytes([len(destination)]) + destination + b"\x08" + b"sourceid"
    head += (0x4000 | len(token)).to_bytes(2, "big") + token
    rest = max(0, size - len(head) - 2)
    return head + (0x4000 | rest).to_bytes(2, "big") + bytes(rest)


@asynccontextmanager
async def a_port(tap: Any = None) -> AsyncGenerator[tuple[QuicEndpoint, SimSocket, QuicEndpoint], None]:
    """The endpoint under attack, a raw socket for the attacker, and somebody honest."""
    network = SimNetwork(tap=tap)
    async with open_endpoint(network, 1, accept=Proving) as target, open_endpoint(network, 3) as honest:
        attacker = await network.bind(host(2))
        yield target, attacker, honest
        attacker.close()


async def test_garbage_of_every_size_is_counted_and_answered_by_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chance = random.Random(1)
    async with a_port() as (target, attacker, honest):
        garbage = [chance.randbytes(size) for size in range(1501)]
        garbage += [b"\xc0" + V1 + chance.randbytes(size) for size in range(0, 1500, 7)]
        garbage += [bytes([first]) * 1400 for first in range(256) if first < 0x80]  # short headers
        for start in range(0, len(garbage), 500):
            attacker.send_batch([(data, TARGET) for data in garbage[start : start + 500]])
            await an_honest_exchange(honest)
        unknown_versions = target.counters.datagrams_received - target.counters.datagrams_unroutable
        assert target.counters.datagrams_unroutable > 1500
        assert target.counters.connections_accepted < 8 + 4
        await trio.sleep(2 * HANDSHAKE_DEADLINE_S)
        assert leftovers(target) == {}
        assert target.counters.connections_broken == 0
        assert unknown_versions < 1200  # long headers of at least 1,200 bytes and the honest ones


@pytest.mark.parametrize(
    "data",
    [
        initial(size=FULL - 1),
        initial()[: FULL - 1],
        initial(destination=b"")[:FULL].ljust(FULL, b"\0"),
        initial(destination=bytes(7)),
        initial(destination=bytes(21)),
        b"\xe3" + initial()[1:],  # a Handshake packet
        b"\xd3" + initial()[1:],  # 0-RTT
        b"\xf3" + initial()[1:],  # Retry
        b"\x83" + initial()[1:],  # without the fixed bit
        initial(version=bytes(4)),  # version negotiation
        initial(version=bytes(4), size=FULL - 1),
        initial(token=b"x" * 64)[:FULL],
        b"",
        b"\xc3",
        b"\xc3" + V1,
        b"\xc3" + V1 + b"\xff",
        b"\x40",
    ],
    ids=lambda data: f"{len(data)}-{data[:6].hex()}",
)
async def test_only_a_full_initial_makes_a_connection(data: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with a_port() as (target, attacker, _):
        attacker.send_batch([(data, TARGET)])
        await trio.sleep(0.1)
        assert leftovers(target) == {}
        assert target.counters.connections_accepted == 0
        counters = target.counters
        assert counters.datagrams_unroutable + counters.connections_refused == counters.datagrams_received == 1
        assert attacker.recv_batch() == []


async def test_an_initial_that_nobody_can_read_costs_a_place_for_five_seconds_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_port() as (target, attacker, honest):
        attacker.send_batch([(initial(destination=b"%08d" % n), TARGET) for n in range(10)])
        await trio.sleep(1)
        assert target.connections == 10
        await an_honest_exchange(honest)
        await trio.sleep(HANDSHAKE_DEADLINE_S)
        assert leftovers(target) == {}
        assert sum(len(data) for data, _ in attacker.recv_batch()) <= 3 * 10 * FULL


async def test_a_real_initial_below_the_full_size_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[bytes] = []

    def tap(source: Address, target: Address, data: bytes) -> bytes | None:
        if source == host(3):
            seen.append(data)
            return None
        return data

    async with a_port(tap) as (target, attacker, honest):
        dial_bare(honest, TARGET)
        await trio.sleep(0.01)
        assert len(seen[0]) > FULL
        attacker.send_batch([(seen[0][:size], TARGET) for size in range(0, FULL, 9)])
        await trio.sleep(0.1)
        assert target.counters.connections_accepted == 0
        attacker.send_batch([(seen[0], TARGET)])
        await trio.sleep(0.1)
        assert target.counters.connections_accepted == 1


async def test_an_unknown_version_is_told_what_we_speak_in_fewer_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_port() as (target, attacker, honest):
        probe = initial(version=b"\x1a\x2a\x3a\x4a", destination=b"tooshort")
        small = initial(version=b"\x1a\x2a\x3a\x4a", size=FULL - 1)
        attacker.send_batch([(probe, TARGET), (small, TARGET)])
        await trio.sleep(0.1)
        [(answer, _)] = attacker.recv_batch()
        header = pull_quic_header(Buffer(data=answer))
        assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
        assert header.destination_cid == b"sourceid"
        assert len(answer) < 100
        assert leftovers(target) == {}
        await an_honest_exchange(honest)


async def test_tokens_that_we_did_not_make_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    chance = random.Random(2)
    async with a_port() as (target, attacker, _):
        tokens = [chance.randbytes(size) for size in range(1, 300, 7)]
        attacker.send_batch([(initial(token=token), TARGET) for token in tokens])
        await trio.sleep(0.1)
        assert target.counters.connections_refused == len(tokens)
        assert leftovers(target) == {}


def mutate(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))


async def test_mutated_datagrams_of_a_handshake_disturb_nobody_else(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(3)

    def tap(source: Address, target: Address, data: bytes) -> bytes | None:
        if host(2) not in (source, target):
            return data
        mutant = bytearray(data)
        mutate(mutant, chance)
        return bytes(mutant)

    await disturb(tap, lambda _endpoint, _recorder: None, rounds=15)


@pytest.mark.thorough
async def test_mutated_client_hellos_disturb_nobody_else(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(4)

    def spoil(_endpoint: QuicEndpoint, recorder: Recorder) -> None:
        # Before encryption: what comes out is a valid packet with an odd ClientHello in it.
        mutate(recorder.connection._quic._crypto_streams[tls.Epoch.INITIAL].sender._buffer, chance)

    await disturb(None, spoil, rounds=25)


async def disturb(tap: Any, spoil: Callable[[QuicEndpoint, Recorder], None], *, rounds: int) -> None:
    network = SimNetwork(tap=tap)

    async def echo(call: macula.Call) -> object:
        return call.args

    async with open_mesh(2, network=network) as (one, two), one.advertise("test.echo", echo):
        target = parse_endpoint(one.endpoint)
        async with open_endpoint(network, 2) as attacker:
            for number in range(rounds):
                recorders = [dial_bare(attacker, target) for _ in range(10)]
                for recorder in recorders:
                    spoil(attacker, recorder)
                with trio.fail_after(PATIENCE_S):
                    assert await two.call("test.echo", number) == number
                await trio.sleep(0.05)
                for recorder in recorders:
                    recorder.connection.close(ErrorCode.NORMAL)
            assert attacker.counters.connections_dialed == 10 * rounds
        await trio.sleep(2 * HANDSHAKE_DEADLINE_S)
        assert await two.call("test.echo", "after") == "after"
        assert len(one.peers()) == 1
        assert one._quic is not None
        assert one._quic.connections == 1


async def test_a_listener_with_an_odd_handshake_harms_only_the_dial(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(5)

    def accept(connection: Connection) -> Recorder:
        original = connection._quic.receive_datagram

        def receive(data: bytes, addr: Any, now: float) -> None:
            original(data, addr, now)
            for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):
                buffer = (
                    connection._quic._crypto_streams[epoch].sender._buffer
                    if connection._quic._streams_queue is not None
                    else b""
                )
                if buffer and chance.random() < 0.6:
                    mutate(buffer, chance)

        connection._quic.receive_datagram = receive  # type: ignore[method-assign]
        return Recorder(connection)

    network = SimNetwork()
    async with (
        open_endpoint(network, 1, accept=accept),
        open_endpoint(network, 2) as victim,
        open_endpoint(network, 3, accept=Proving),
    ):
        for _ in range(10):
            recorders = [dial_bare(victim, TARGET) for _ in range(10)]
            await an_honest_exchange(victim, host(3))
            for recorder in recorders:
                assert recorder.losses <= 1
                recorder.connection.close(ErrorCode.NORMAL)
        await trio.sleep(40)
        assert leftovers(victim) == {}


# -- aioquic itself fails ----------------------------------------------------------------------------------------


class OddError(Exception):
    """Nobody has heard of it."""


@pytest.mark.parametrize("error", [OddError, AssertionError, KeyError, RecursionError, UnicodeError, OSError])
@pytest.mark.parametrize(
    "name", ["receive_datagram", "datagrams_to_send", "next_event", "get_timer", "handle_timer", "send_stream_data"]
)
async def test_whatever_aioquic_raises_ends_one_connection_and_nothing_else(
    name: str, error: type[Exception], autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Proving] = []

    def accept(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    def fail(*_args: object, **_more: object) -> None:
        raise error("planted")

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=accept) as target, open_endpoint(network, 2) as other:
        good, bad = await connect_bare(other, TARGET), await connect_bare(other, TARGET)
        await trio.sleep(0.1)
        setattr(heard[1].connection._quic, name, fail)
        bad.write(b"x")
        if name == "send_stream_data":
            heard[1].write(b"x")
        await trio.sleep(60)  # virtual: good is kept alive by nobody, so look at it before its time-out
        assert target.counters.connections_broken == 1
        assert heard[1].losses == 1
        assert heard[1].reason is CloseReason.FAILED
        assert "planted" in heard[1].detail
        assert heard[0].reason is CloseReason.IDLE
        assert good.losses == bad.losses == 1
        assert leftovers(target) == leftovers(other) == {}
        await an_honest_exchange(other)


async def test_a_connection_that_breaks_while_it_is_closed_is_lost_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise OddError("planted")

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=Proving), open_endpoint(network, 2) as other:
        bad = await connect_bare(other, TARGET)
        bad.connection._quic.datagrams_to_send = fail  # type: ignore[method-assign,assignment]
        bad.connection.close(ErrorCode.NORMAL)
        assert bad.losses == 1
        assert other.counters.connections_broken == 1
        assert leftovers(other) == {}


# -- many half-open ones -----------------------------------------------------------------------------------------


async def test_from_64_half_open_ones_on_a_dialer_must_show_that_it_receives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def deaf(source: Address, target: Address, data: bytes) -> bytes | None:
        return None if target == host(2) else data  # as if the attacker's address were forged

    network = SimNetwork(tap=deaf)
    async with (
        open_endpoint(network, 1, accept=Proving) as target,
        open_endpoint(network, 2) as attacker,
        open_endpoint(network, 3) as honest,
    ):
        forged = [dial_bare(attacker, TARGET) for _ in range(HALF_OPEN_FREE + 20)]
        await trio.sleep(0.5)
        assert target.connections == target._admission.half_open == HALF_OPEN_FREE
        assert target.counters.retries_demanded >= 20
        recorder = await connect_bare(honest, TARGET)  # got a Retry, and came back with its token
        assert recorder.completed.is_set()
        assert target.connections == HALF_OPEN_FREE + 1
        for one in forged:
            one.connection.close(ErrorCode.NORMAL)
        recorder.connection.close(ErrorCode.NORMAL)
        await trio.sleep(HANDSHAKE_DEADLINE_S + 1)
        assert leftovers(target) == {}


async def test_who_has_proven_himself_is_half_open_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with a_port() as (target, _, honest):  # which takes everybody for proven
        recorders = [await connect_bare(honest, TARGET) for _ in range(HALF_OPEN_FREE + 5)]
        await trio.sleep(0.1)
        assert target.connections == len(recorders)
        assert target._admission.half_open == 0
        assert target.counters.retries_demanded == 0


async def test_above_the_maximum_a_newcomer_takes_the_place_of_the_host_that_holds_the_most(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "HALF_OPEN_FREE", 4)
    monkeypatch.setattr(admission, "HALF_OPEN_MAX", 12)
    monkeypatch.setattr(admission, "HALF_OPEN_PER_HOST_MAX", 8)
    network = SimNetwork()
    async with (
        open_endpoint(network, 1) as target,  # nobody is ever proven here
        open_endpoint(network, 2) as one,
        open_endpoint(network, 3) as two,
        open_endpoint(network, 4) as late,
    ):
        mine = [dial_bare(one, TARGET) for _ in range(10)]
        await trio.sleep(0.1)
        assert target._admission.half_open == 8  # one host cannot take every place
        assert target.counters.connections_refused > 0
        theirs = [dial_bare(two, TARGET) for _ in range(4)]
        await trio.sleep(0.1)
        assert target._admission.half_open == 12
        recorder = dial_bare(late, TARGET)
        await trio.sleep(0.1)
        assert recorder.completed.is_set()
        assert target._admission.half_open == 12
        assert [one.detail for one in mine if one.closed.is_set()] == [ErrorCode.LIMIT_EXCEEDED]
        assert not any(one.closed.is_set() for one in theirs)
        for recorder in mine + theirs:
            recorder.connection.close(ErrorCode.NORMAL)
        await trio.sleep(4 * HANDSHAKE_DEADLINE_S)
        assert leftovers(target) == {}


async def test_who_proves_nothing_is_dropped_after_five_seconds(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_endpoint(network, 1) as target, open_endpoint(network, 2) as attacker:
        begun = trio.current_time()
        recorder = dial_bare(attacker, TARGET)
        await recorder.closed.wait()
        assert begun + HANDSHAKE_DEADLINE_S <= trio.current_time() < begun + HANDSHAKE_DEADLINE_S + 1
        assert recorder.detail == ErrorCode.HANDSHAKE_TIMEOUT
        await trio.sleep(1)
        assert leftovers(target) == leftovers(attacker) == {}


# -- memory --------------------------------------------------------------------------------------------------------


async def test_bytes_behind_a_withheld_one_end_an_unproven_connection_early(
    autojump_clock: trio.testing.MockClock,
) -> None:
    heard: list[Recorder] = []

    def accept(connection: Connection) -> Recorder:
        heard.append(Recorder(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=accept) as target, open_endpoint(network, 2) as attacker:
        recorder = await connect_bare(attacker, TARGET)
        withhold(recorder, 4 * WITHHELD_UNPROVEN_MAX)
        await trio.sleep(2)
        assert heard[0].detail == ErrorCode.LIMIT_EXCEEDED
        assert heard[0].data == {}
        buffered = heard[0].connection._quic._streams
        assert sum(len(stream.receiver._buffer) for stream in buffered.values()) < 2 * WITHHELD_UNPROVEN_MAX
        await trio.sleep(10)
        assert leftovers(target) == {}


def withhold(recorder: Recorder, count: int) -> None:
    """Send everything but the first byte."""
    quic_connection = recorder.connection._quic
    recorder.write(bytes(count))
    quic_connection._streams[0].sender._pending.subtract(0, 1)


async def test_honest_bulk_is_no_withholding(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WITHHELD_MAX", 1024 * 1024)  # a third of what is sent: only the credit helps
    chance, heard = random.Random(6), list[Proving]()

    def accept(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    def lossy(source: Address, target: Address, data: bytes) -> bytes | None:
        return None if chance.random() < 0.03 else data

    network = SimNetwork(tap=lossy)
    async with open_endpoint(network, 1, accept=accept), open_endpoint(network, 2) as sender:
        recorder = await connect_bare(sender, TARGET)
        recorder.write(bytes(3_000_000))
        await trio.sleep(20)
        assert len(heard[0].data[0]) == 3_000_000
        assert not heard[0].closed.is_set()


# -- addresses -------------------------------------------------------------------------------------------------------


async def test_nobody_gets_through_a_handshake_that_began_at_a_forged_address(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else the forged source would pass for the address at which the peer was shown to receive."""
    victim, forged = host(9), dict[bytes, None]()

    def tap(source: Address, target: Address, data: bytes) -> bytes | None:
        first_id = data[6 : 6 + data[5]]  # of the listener, as its dialer invented it; nothing comes back to change it
        if source == host(2) and first_id not in forged:
            forged[first_id] = None
            network._carry(victim, target, data)
            return None
        return data

    network = SimNetwork(tap=tap)
    async with open_endpoint(network, 1, accept=Proving) as target, open_endpoint(network, 2) as attacker:
        recorder = dial_bare(attacker, TARGET)
        await trio.sleep(HANDSHAKE_DEADLINE_S + 1)
        assert [connection.path for connection in target._connections if connection.binding] == []
        assert not recorder.completed.is_set()
        assert target.counters.datagrams_unroutable > 0
        assert len(forged) == 2, "the smaller one that was dialed as well began there, too"


async def test_a_proven_peer_may_move_to_another_address(autojump_clock: trio.testing.MockClock) -> None:
    heard, moved = list[Proving](), list[bool]()
    new = host(8)

    def accept(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    def tap(source: Address, target: Address, data: bytes) -> bytes | None:
        if moved and source == host(2):
            network._carry(new, target, data)
            return None
        if moved and target == new:
            network._carry(source, host(2), data)
            return None
        return data

    network = SimNetwork(tap=tap)
    async with open_endpoint(network, 1, accept=accept), open_endpoint(network, 2) as peer:
        recorder = await connect_bare(peer, TARGET)
        await trio.sleep(0.1)
        moved.append(True)
        recorder.write(b"moved")
        await trio.sleep(1)
        assert heard[0].data == {0: b"moved"}
        heard[0].write(b"there you are")
        await trio.sleep(1)
        assert recorder.data == {0: b"there you are"}


# -- nothing is left ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["dialer", "listener", "both", "nobody", "dropped"])
async def test_a_connection_that_has_ended_is_forgotten_by_both(
    who: str, autojump_clock: trio.testing.MockClock
) -> None:
    heard: list[Proving] = []

    def accept(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    cut: list[bool] = []
    network = SimNetwork(tap=lambda _source, _target, data: None if cut else data)
    async with open_endpoint(network, 1, accept=accept) as target, open_endpoint(network, 2) as other:
        for _ in range(3):
            recorder = await connect_bare(other, TARGET)
            recorder.write(b"x")
            await trio.sleep(0.1)
            if who in ("dialer", "both"):
                recorder.connection.close(ErrorCode.NORMAL)
            if who in ("listener", "both"):
                heard[-1].connection.close(ErrorCode.NORMAL)
        cut += [True] if who == "dropped" else []
        await trio.sleep(1 if who in ("dialer", "listener", "both") else 100)
        assert leftovers(target) == leftovers(other) == {}
        assert {recorder.losses for recorder in heard} == {1}


async def test_a_dial_that_nobody_answers_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with open_endpoint(SimNetwork(), 2) as endpoint:
        recorder = dial_bare(endpoint, TARGET)
        await recorder.closed.wait()
        assert recorder.reason is CloseReason.IDLE
        await trio.sleep(100)
        assert leftovers(endpoint) == {}


# -- turns -----------------------------------------------------------------------------------------------------------


async def test_others_have_their_turn_between_datagrams_that_take_long(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "TURN_S", -1.0)  # each datagram takes longer than a turn, even on this clock
    heard: list[Proving] = []

    def accept(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=accept) as target, open_endpoint(network, 2) as sender:
        recorder = await connect_bare(sender, TARGET)
        await trio.sleep(0.1)
        turns, routed, route = [0], list[int](), target.received

        def note(data: bytes, source: Address, now: float) -> None:
            routed.append(turns[0])
            route(data, source, now)

        async def bystander() -> None:
            while True:
                turns[0] += 1
                await trio.lowlevel.checkpoint()

        monkeypatch.setattr(target, "received", note)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bystander)
            recorder.write(bytes(100_000))
            while len(heard[0].data.get(0, b"")) < 100_000:
                autojump_clock.jump(0.001)  # somebody is always runnable, so the clock does not jump by itself
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert len(routed) > 50
        # Who comes first within a tick is chance, so two datagrams may see the same turn; a whole batch may not.
        assert len(set(routed)) > len(routed) / 3
