"""The peer connector of v0.8: one connection for one frame, owned by whoever awaits it."""

from __future__ import annotations

import pytest
import trio
from quic_tools import Recorder, credentials, host, open_endpoint, open_peer

import macula_trio as macula
from macula_trio._net.quic import CloseReason, Connection
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.errors import ErrorCode, PeerUnavailable, RealmMismatch, TrustError
from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock
REALM = "org.example.test"
CAST = {"procedure": "a.b", "args": b"{}"}
TARGET = format_endpoint(host(1))


async def test_in_v08_mode_it_connects_writes_sleeps_100_ms_and_closes(autojump_clock: Clock) -> None:
    network = SimNetwork()
    heard: list[Recorder] = []
    written_at: list[float] = []

    def accept(connection: Connection) -> Recorder:
        class Timed(Recorder):
            def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
                written_at.append(trio.current_time())
                super().stream_data_received(stream_id, data, end_stream)

        heard.append(Timed(connection))
        return heard[-1]

    async with open_endpoint(network, 1, accept=accept):
        await macula.send_message(TARGET, MessageType.CAST, CAST, trust=macula.Trust.unverified(), network=network)
        ended_at = trio.current_time()
        await trio.sleep(5)
        assert len(heard) == 1, "one connection"
        assert heard[0].data.keys() == {0}, "one stream"
        assert heard[0].heard() == [wire.Cast(procedure="a.b", args=b"{}")], "one frame, and no CONNECT before it"
        assert ended_at - written_at[0] == pytest.approx(0.1, abs=0.005)
        assert heard[0].reason is CloseReason.CLOSED_BY_PEER
    assert network.bound == []


async def test_between_proven_nodes_the_linger_ends_when_the_frame_was_read(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, realm=REALM) as peer:
        casts: list[wire.Cast] = []
        peer.registry.handle(wire.Cast, lambda _link, cast: casts.append(cast))
        started = trio.current_time()
        await macula.send_message(
            TARGET, MessageType.CAST, CAST, realm=REALM, network=network, linger=10, identity=macula.Identity.generate()
        )
        assert trio.current_time() - started < 0.1
        assert casts == [wire.Cast(procedure="a.b", args=b"{}")]
        assert [event.facts["verified"] for event in peer.named("link.opened")] == [True]


async def test_nobody_there_is_peer_unavailable_at_the_deadline(autojump_clock: Clock) -> None:
    network = SimNetwork()
    for trust in (macula.Trust.open(), macula.Trust.unverified()):
        started = trio.current_time()
        with pytest.raises(PeerUnavailable, match=r"10\.7\.0\.1:9443"):
            await macula.send_message(
                TARGET, MessageType.CAST, CAST, realm=REALM, trust=trust, network=network, dial_deadline_s=3
            )
        assert trio.current_time() - started == pytest.approx(3, abs=0.01)
    assert network.bound == []


@pytest.mark.parametrize("trust", [macula.Trust.open(), macula.Trust.unverified()], ids=lambda trust: trust.kind)
async def test_a_connection_that_ends_within_the_linger_is_an_error(trust: macula.Trust, autojump_clock: Clock) -> None:
    class Closing(Recorder):
        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            self.connection.close(ErrorCode.LIMIT_EXCEEDED)

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=Closing):
        with pytest.raises(PeerUnavailable, match="limit_exceeded"):
            await macula.send_message(
                TARGET, MessageType.CAST, CAST, realm=REALM, trust=trust, network=network, linger=3
            )
    assert network.bound == []


async def test_a_refusal_says_why(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, realm=REALM):
        with pytest.raises(RealmMismatch):
            await macula.send_message(TARGET, MessageType.CAST, CAST, realm="org.other", network=network)
        own = macula.Identity(credentials(1).private_key, credentials(1).chain)
        with pytest.raises(TrustError, match="same key"):
            await macula.send_message(TARGET, MessageType.CAST, CAST, realm=REALM, network=network, identity=own)
    assert network.bound == []


async def test_a_body_that_cannot_be_encoded_opens_no_socket(autojump_clock: Clock) -> None:
    network = SimNetwork()
    with pytest.raises(macula.LocalProtocolError):
        await macula.send_message(TARGET, MessageType.CAST, {"procedure": {1}}, realm=REALM, network=network)
    with pytest.raises(ValueError, match="HOST:PORT"):
        await macula.send_message("nowhere", MessageType.CAST, CAST, realm=REALM, network=network)
    assert network.bound == []


@pytest.mark.parametrize("trust", [macula.Trust.open(), macula.Trust.unverified()], ids=["open", "unverified"])
async def test_cancelled_at_any_moment_it_leaves_no_socket(trust: macula.Trust, autojump_clock: Clock) -> None:
    network = SimNetwork()
    identity = macula.Identity.generate()
    async with open_peer(network, 1, realm=REALM, trust=trust):
        before = network.bound
        for step_ms in range(1, 140, 3):
            with trio.move_on_after(step_ms / 4000 if trust.kind == "open" else step_ms / 1000):
                await macula.send_message(
                    TARGET, MessageType.CAST, CAST, realm=REALM, trust=trust, network=network, identity=identity
                )
            assert network.bound == before
