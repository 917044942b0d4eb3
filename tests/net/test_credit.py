"""A peer that sends what cannot be read yet: what it makes us hold is bounded, however it goes about it."""

from __future__ import annotations

import pytest
import trio
from aioquic.quic.connection import QuicConnection
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import Epoch
from quic_tools import Proving, Recorder, connect_bare, dial_bare, host, leftovers, open_endpoint, scatter_handshake

from macula_trio._net import admission, credit
from macula_trio._net.credit import (
    HANDSHAKE_AHEAD_MAX,
    PIECES_MAX,
    PIECES_UNPROVEN_MAX,
    WINDOW_BYTES,
    WINDOW_UNPROVEN_BYTES,
)
from macula_trio._net.quic import CloseReason, Connection
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
MEBIBYTE = 1024 * 1024
ROUNDS = 14  # of doubling: from 1 MiB to 16 GiB, if nobody stopped it
STREAM_BYTES = 1024 * 1024  # aioquic's first window of one stream, which it doubles as it is used


def test_what_the_design_promises_about_strangers_stays_a_number() -> None:
    """The others follow the constants wherever they go."""
    assert admission.HALF_OPEN_FREE == 64  # DESIGN section 6: from then on, Retry
    assert admission.HALF_OPEN_MAX * WINDOW_UNPROVEN_BYTES <= 64 * MEBIBYTE  # all of them together


def held_by(connection: Connection) -> int:
    """Bytes in the buffers of a connection's streams, holes included."""
    return sum(len(stream.receiver._buffer) for stream in connection._quic._streams.values())


def forget_limits(quic: QuicConnection) -> None:
    """The attacker keeps to no limit of its own side."""
    quic._remote_max_data = quic._remote_max_stream_data_bidi_remote = 1 << 60


def send_far_behind(recorder: Recorder, stream_id: int, *places: range) -> None:
    """Let the next datagrams carry only these places of a stream, so that its front is missing for good."""
    quic = recorder.connection._quic
    forget_limits(quic)
    if stream_id not in quic._streams:
        quic.send_stream_data(stream_id, b"?")
    stream = quic._streams[stream_id]
    stream.max_stream_data_remote = 1 << 60
    sender = stream.sender
    sender._buffer_start, sender._buffer_stop = places[0].start, places[-1].stop
    sender._buffer = bytearray(places[-1].stop - places[0].start)
    sender._pending = RangeSet(places)
    sender._pending_eof = False
    sender.buffer_is_empty = False
    recorder.connection._endpoint.mark_written(recorder.connection)


@pytest.mark.parametrize(
    ("accept", "window"), [(Recorder, WINDOW_UNPROVEN_BYTES), (Proving, WINDOW_BYTES)], ids=["stranger", "proven"]
)
async def test_single_bytes_far_behind_the_front_do_not_double_what_is_held(
    accept: type[Recorder], window: int, autojump_clock: Clock
) -> None:
    heard: list[Recorder] = []

    def listen(connection: Connection) -> Recorder:
        heard.append(accept(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=listen), open_endpoint(network, 2) as attacker:
        recorder = await connect_bare(attacker, host(1))
        await trio.sleep(0.1)
        for number in range(ROUNDS):
            told = recorder.connection._quic._streams.get(0)
            assert told is None or heard[0].data == {}
            farthest = (min(window, STREAM_BYTES) << number) - 1
            send_far_behind(recorder, 0, range(farthest, farthest + 1))
            await trio.sleep(0.05)  # virtual: the answer has come, with whatever window it grants
            if heard[0].closed.is_set():
                break
            assert held_by(heard[0].connection) <= window
        assert heard[0].closed.is_set(), "who sends beyond its window breaks the rules of QUIC"
        await trio.sleep(60)
        assert leftovers(attacker) == {}


@pytest.mark.parametrize(
    ("accept", "pieces_max"), [(Recorder, PIECES_UNPROVEN_MAX), (Proving, PIECES_MAX)], ids=["stranger", "proven"]
)
async def test_very_many_pieces_end_the_connection(
    accept: type[Recorder], pieces_max: int, autojump_clock: Clock
) -> None:
    heard: list[Recorder] = []

    def listen(connection: Connection) -> Recorder:
        heard.append(accept(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=listen), open_endpoint(network, 2) as attacker:
        recorder = await connect_bare(attacker, host(1))
        await trio.sleep(0.1)
        send_far_behind(recorder, 0, *(range(place, place + 1) for place in range(1, 2 * pieces_max, 2)))
        await trio.sleep(1)
        assert not heard[0].closed.is_set(), "so many may come from a bad line"
        send_far_behind(recorder, 0, *(range(place, place + 1) for place in range(1, 4 * pieces_max, 2)))
        await trio.sleep(1)
        assert heard[0].reason is CloseReason.FAILED
        assert heard[0].detail == ErrorCode.LIMIT_EXCEEDED


@pytest.mark.parametrize("epoch", [Epoch.INITIAL, Epoch.ONE_RTT], ids=lambda epoch: epoch.name)
@pytest.mark.parametrize("first", [4096, HANDSHAKE_AHEAD_MAX], ids=["many pieces", "far ahead"])
async def test_pieces_of_a_handshake_are_bounded_in_number_and_reach(
    epoch: Epoch, first: int, autojump_clock: Clock
) -> None:
    """Anybody may write there, with his first datagrams, and aioquic would walk all pieces for each new one."""
    network = SimNetwork()
    pieces = 1 if first >= HANDSHAKE_AHEAD_MAX else 2 * PIECES_UNPROVEN_MAX
    heard: list[Recorder] = []
    lingers: list[bool] = []

    class Witness(Recorder):
        def connection_lost(self, reason: CloseReason, detail: str) -> None:
            super().connection_lost(reason, detail)
            lingers.append(self.connection in target._connections)

    def listen(connection: Connection) -> Recorder:
        heard.append(Witness(connection))
        return heard[-1]

    async with open_endpoint(network, 1, accept=listen) as target, open_endpoint(network, 2) as attacker:
        if epoch is Epoch.INITIAL:
            recorder = dial_bare(attacker, host(1))
        else:
            recorder = await connect_bare(attacker, host(1))
        await scatter_handshake(recorder, epoch, pieces, first)
        await trio.sleep(0.1)
        assert (heard[0].reason, heard[0].detail) == (CloseReason.FAILED, ErrorCode.LIMIT_EXCEEDED)
        assert lingers[0] == (epoch is Epoch.ONE_RTT), "a close that takes its time is for whom we know to be there"
        await trio.sleep(60)
        assert leftovers(target) == {}


@pytest.mark.long
async def test_what_was_taken_is_granted_again(autojump_clock: Clock) -> None:
    heard: list[Proving] = []

    def listen(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=listen), open_endpoint(network, 2) as sender:
        recorder = await connect_bare(sender, host(1))
        for _ in range(5):
            recorder.write(bytes(WINDOW_BYTES))
        await trio.sleep(20)
        assert len(heard[0].data[0]) == 5 * WINDOW_BYTES
        assert not heard[0].closed.is_set()


@pytest.mark.long
async def test_what_a_reset_stream_never_delivered_is_granted_again(autojump_clock: Clock) -> None:
    heard: list[Proving] = []

    def listen(connection: Connection) -> Proving:
        heard.append(Proving(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=listen), open_endpoint(network, 2) as sender:
        recorder = await connect_bare(sender, host(1))
        recorder.write(b"x")
        await trio.sleep(0.1)
        for number in range(1, 12):
            stream_id = 4 * number
            send_far_behind(recorder, stream_id, range(STREAM_BYTES - 1, STREAM_BYTES))
            await trio.sleep(0.1)
            recorder.connection._quic.reset_stream(stream_id, 1)
            recorder.connection._endpoint.mark_written(recorder.connection)
            await trio.sleep(0.1)
        assert heard[0].resets == [4 * number for number in range(1, 12)]
        recorder.write(bytes(2 * WINDOW_BYTES))
        await trio.sleep(20)
        assert len(heard[0].data[0]) == 1 + 2 * WINDOW_BYTES


def test_the_private_parts_that_it_stands_on_are_there() -> None:
    assert credit.QuicConnection.__init__.__code__.co_names.count("_local_max_data") == 1
