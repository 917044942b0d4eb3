"""One link against a peer that says whatever it likes, before and after it has proven itself."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from message_examples import CALL, EXAMPLES, ID, KEY
from quic_tools import REALM, Peer, Recorder, connect_bare, credentials, host, leftovers, open_endpoint, open_peer

import macula_trio as macula
from macula_trio._ids import Contact
from macula_trio._net.quic import HANDSHAKE_DEADLINE_S, CloseReason, Connection, QuicEndpoint
from macula_trio._peer import asks as asks_module
from macula_trio._peer import inbox as inbox_module
from macula_trio._peer.budget import TokenBucket
from macula_trio._peer.handshake import HANDSHAKE_PAYLOAD_BYTES_MAX, LocalParty, RemoteParty, make_connect, make_pong
from macula_trio._peer.inbox import STREAMS_MAX
from macula_trio._peer.window import BACKLOG_BYTES_MAX
from macula_trio._trust import Trust
from macula_trio._util import Address, format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_frame, encode_message
from macula_trio._wire.frame import HEADER, VERSION, MessageType
from macula_trio._wire.messages import to_body
from macula_trio.abc import Message
from macula_trio.errors import (
    ErrorCode,
    MeshError,
    NotSent,
    PeerUnavailable,
    RealmMismatch,
    RemoteProtocolError,
    TrustError,
)
from macula_trio.testing import SimNetwork

REPLIES: Final = (wire.Pong, wire.Reply, wire.FindNodeReply, wire.StoreReply, wire.FindValueReply, wire.SwimAck)
UNKNOWN: Final = HEADER.pack(VERSION, 0x7E, 3) + b"???"

named = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)


def test_there_is_an_example_of_every_type_but_connect() -> None:
    assert {type(message) for message in EXAMPLES} == set(wire.CLASSES.values()) - {wire.Connect}


def handle_everything(peer: Peer) -> list[Message]:
    """What reaches handlers."""
    handled: list[Message] = []
    for message_type in wire.CLASSES.values():
        if message_type not in (wire.Connect, wire.Disconnect, wire.Ping, *REPLIES):
            peer.registry.handle(message_type, lambda _link, message: handled.append(message))
    return handled


@attrs.define(eq=False)
class Scene:
    peer: Peer
    handled: list[Message]
    attacker: QuicEndpoint
    network: SimNetwork

    async def connect(self) -> Recorder:
        return await connect_bare(self.attacker, self.peer.address)

    async def introduce(self) -> Recorder:
        """A connection whose proof was accepted."""
        recorder = await self.connect()
        recorder.say(good_connect(recorder))
        await trio.sleep(0.1)
        assert isinstance(recorder.heard()[0], wire.Pong)
        assert self.peer.registry.links[-1].verified
        return recorder

    async def assert_refused(self, recorder: Recorder, code: ErrorCode, within_s: float = 1.0) -> None:
        """Closed with that code, never live, and nobody above heard a word."""
        with trio.fail_after(within_s):
            await recorder.closed.wait()
        assert recorder.reason is CloseReason.CLOSED_BY_PEER
        assert recorder.detail == code.value
        assert self.peer.refused == {code.value: 1}
        assert self.peer.registry.links == self.handled == self.peer.named("link.opened") == []
        assert self.peer.endpoint.counters.connections_broken == 0


def attacker_party(**changes: Any) -> LocalParty:
    fields: dict[str, Any] = {
        "credentials": credentials(2),
        "instance": b"attackerattacker",
        "realm": REALM,
        "trust": Trust.open(),
        "endpoint": format_endpoint(host(2)),
    }
    return LocalParty(**(fields | changes))


def good_connect(recorder: Recorder, **changes: Any) -> wire.Connect:
    return make_connect(attacker_party(**changes), binding=recorder.connection.binding, peer=None)


@asynccontextmanager
async def a_scene(**changes: Any) -> AsyncGenerator[Scene, None]:
    network = SimNetwork()
    async with open_peer(network, 1, **changes) as peer, open_endpoint(network, 2) as attacker:
        yield Scene(peer, handle_everything(peer), attacker, network)


# -- before the proof ---------------------------------------------------------------------------------------------


@named
async def test_nothing_but_connect_is_looked_at_first(message: Message, autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(message)
        if isinstance(message, wire.Disconnect):
            await trio.sleep(1)
            assert recorder.detail == ErrorCode.NORMAL
            assert scene.peer.registry.links == scene.handled == []
            return
        await scene.assert_refused(recorder, ErrorCode.PROOF_REQUIRED)
        goodbye = recorder.heard()[-1]
        assert isinstance(goodbye, wire.Disconnect)
        assert goodbye.reason == ErrorCode.PROOF_REQUIRED


@pytest.mark.parametrize("stream_id", [2, 4, 6, 8, 400])
@pytest.mark.parametrize("data", [b"", b"\x01", encode_message(CALL)], ids=["fin", "byte", "call"])
async def test_a_second_stream_before_the_proof_is_refused(
    stream_id: int, data: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.write(data, stream_id, end_stream=not data)
        await scene.assert_refused(recorder, ErrorCode.PROOF_REQUIRED)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (HEADER.pack(VERSION, 1, HANDSHAKE_PAYLOAD_BYTES_MAX + 1), ErrorCode.FRAME_TOO_LARGE),
        (encode_frame(1, {"realm_id": REALM, "x": bytes(17 * 1024)}), ErrorCode.FRAME_TOO_LARGE),
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.UNSUPPORTED_VERSION),
        (bytes(64), ErrorCode.UNSUPPORTED_VERSION),
        (UNKNOWN, ErrorCode.PROOF_REQUIRED),
        (encode_frame(1, {}), ErrorCode.MALFORMED_MESSAGE),
        (HEADER.pack(VERSION, 1, 3) + b"\x81\xc4\x00", ErrorCode.MALFORMED_PAYLOAD),
        (encode_frame(1, {"realm_id": REALM}), ErrorCode.PROOF_REQUIRED),
        (encode_frame(1, {"realm_id": "org.other"}), ErrorCode.REALM_MISMATCH),
    ],
)
async def test_bytes_that_are_no_good_connect_are_refused(
    data: bytes, code: ErrorCode, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.write(data)
        await scene.assert_refused(recorder, code)


@pytest.mark.parametrize("ended", [False, True])
async def test_who_says_nothing_or_never_finishes_is_dropped_after_five_seconds(
    ended: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        begun = trio.current_time()
        silent, dripping = await scene.connect(), await scene.connect()
        if ended:
            silent.write(b"", end_stream=True)
        dripping.write(HEADER.pack(VERSION, 1, HANDSHAKE_PAYLOAD_BYTES_MAX))
        while not dripping.closed.is_set():
            dripping.write(b"x")
            await trio.sleep(0.05)
        await silent.closed.wait()
        assert trio.current_time() - begun < HANDSHAKE_DEADLINE_S + 1
        assert silent.detail == dripping.detail == ErrorCode.HANDSHAKE_TIMEOUT
        assert scene.peer.registry.links == []
        assert scene.peer.endpoint._admission.half_open == 0


async def test_a_good_connect_byte_by_byte_is_good(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        for byte in encode_message(good_connect(recorder)):
            recorder.write(bytes([byte]))
            await trio.sleep(0.003)
        await trio.sleep(0.1)
        [link] = scene.peer.registry.links
        assert link.verified
        assert link.node_id == credentials(2).node_id
        assert isinstance(recorder.heard()[0], wire.Pong)


async def test_what_follows_connect_at_once_is_taken_up(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.write(encode_message(good_connect(recorder)) + encode_message(CALL) + encode_message(EXAMPLES[1]))
        await trio.sleep(0.1)
        assert scene.handled == [CALL]
        assert [type(message) for message in recorder.heard()] == [wire.Pong, wire.Pong]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda connect: attrs.evolve(connect, proof=connect.proof[:-1] + bytes([connect.proof[-1] ^ 1])),
        lambda connect: attrs.evolve(connect, proof=b""),
        lambda connect: attrs.evolve(connect, node_id=KEY),
        lambda connect: attrs.evolve(connect, instance=None),
        lambda connect: attrs.evolve(connect, certificate_chain=()),
        lambda connect: attrs.evolve(connect, certificate_chain=(b"junk",)),
        lambda connect: attrs.evolve(connect, certificate_chain=credentials(3).chain_der),
    ],
)
async def test_a_connect_with_a_bad_proof_is_refused(
    spoil: Callable[[wire.Connect], wire.Connect], autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(spoil(good_connect(recorder)))
        await scene.assert_refused(recorder, ErrorCode.BAD_PROOF)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda connect: attrs.evolve(connect, proof=None), ErrorCode.PROOF_REQUIRED),
        (lambda connect: attrs.evolve(connect, peer_node_id=KEY), ErrorCode.WRONG_PEER),
    ],
)
async def test_a_refusal_names_what_is_wrong(
    spoil: Callable[[wire.Connect], wire.Connect], code: ErrorCode, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(spoil(good_connect(recorder)))
        await scene.assert_refused(recorder, code)


async def test_who_claims_our_own_id_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(good_connect(recorder, credentials=credentials(1), instance=scene.peer.party.instance))
        await scene.assert_refused(recorder, ErrorCode.OWN_IDENTITY)
        assert scene.peer.named("identity_conflict") == []


async def test_a_second_node_with_our_key_is_refused_and_told_to_both(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(good_connect(recorder, credentials=credentials(1)))
        await scene.assert_refused(recorder, ErrorCode.IDENTITY_CONFLICT)
        assert len(scene.peer.named("identity_conflict")) == 1


# -- the dialer is as strict ---------------------------------------------------------------------------------------


@asynccontextmanager
async def a_dialer(
    answer: Callable[[Recorder], None], **changes: Any
) -> AsyncGenerator[tuple[Peer, Contact, list[Recorder]], None]:
    """An honest peer, and a listener that answers every CONNECT by what the test likes."""
    heard: list[Recorder] = []

    class Answering(Recorder):
        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            first = not self.data
            super().stream_data_received(stream_id, data, end_stream)
            if first:
                answer(self)

    def accept(connection: Connection) -> Recorder:
        heard.append(Answering(connection))
        return heard[-1]

    network = SimNetwork()
    async with open_peer(network, 1, **changes) as peer, open_endpoint(network, 2, accept=accept):
        yield peer, Contact(node_id=credentials(2).node_id, endpoint=format_endpoint(host(2))), heard


def good_pong(recorder: Recorder, peer: Peer, **changes: Any) -> wire.Pong:
    return make_pong(
        attacker_party(**changes),
        binding=recorder.connection.binding,
        peer=attrs.evolve(macula_remote(peer)),
        timestamp=1,
        server_time=1,
    )


def macula_remote(peer: Peer) -> Any:
    return RemoteParty(node_id=peer.node_id, verified=True)


# -- where we are seen ------------------------------------------------------------------------------------------------


async def observed_by(observed: object) -> list[tuple[str | None, Address]]:
    """What a dialer takes of a good PONG with this in it, and of one that nobody asked for behind it."""
    peers: list[Peer] = []

    def answer(recorder: Recorder) -> None:
        hello = to_body(good_pong(recorder, peers[0]))
        later = to_body(wire.Pong(timestamp=-1, server_time=0))
        for body in (hello, later):
            recorder.write(encode_frame(MessageType.PONG, body | {"observed": observed}))

    async with a_dialer(answer) as (peer, contact, _):
        peers.append(peer)
        seen: list[tuple[str | None, Address]] = []
        peer.registry.on_observed(lambda link, address: seen.append((link.node_id and link.node_id.hex(), address)))
        link = await peer.registry.link_to(contact)
        await trio.sleep(0.1)
        assert link.verified
        assert not link.is_closed
        assert peer.refused == {}
        assert {observer for observer, _ in seen} <= {contact.node_id.hex()}
        return seen


@pytest.mark.parametrize("observed", ["192.0.2.9:40001", b"[::ffff:192.0.2.9]:40001"])
async def test_a_dialer_hears_where_it_is_seen(observed: object, autojump_clock: trio.testing.MockClock) -> None:
    assert [address for _, address in await observed_by(observed)] == [("192.0.2.9", 40_001)] * 2


@pytest.mark.parametrize(
    "observed",
    [
        None,
        5,
        True,
        b"",
        b"\xff\xfe:1",
        b"nonsense",
        b"node.example.org:1",
        b"0.0.0.0:9443",
        b"[::]:9443",
        b"224.0.0.1:9443",
        b"192.0.2.9:0",
        b"192.0.2.9:1" + b"/" * 12_000,
        [b"192.0.2.9:1"],
        [49, 50],
        {"host": b"192.0.2.9"},
    ],
)
async def test_a_bad_word_about_it_refuses_nothing(observed: object, autojump_clock: trio.testing.MockClock) -> None:
    assert await observed_by(observed) == []


async def test_who_dials_us_is_told_where_it_is_seen_and_cannot_tell_us(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_scene() as scene:
        seen: list[Address] = []
        scene.peer.registry.on_observed(lambda _link, address: seen.append(address))
        recorder = await scene.introduce()
        hello = recorder.heard()[0]
        assert isinstance(hello, wire.Pong)
        assert hello.observed == format_endpoint(host(2))
        recorder.say(wire.Pong(timestamp=-1, server_time=0, observed="192.0.2.9:40001"))
        await trio.sleep(0.1)
        assert not scene.peer.registry.links[-1].is_closed
        assert seen == []


async def test_who_moves_under_a_link_is_told_once_where_it_is_seen_now(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        scene.network.host(host(2)[0]).change_address("10.8.8.8")
        for number in range(30):  # it has something to say all the time, so the link never falls silent
            recorder.say(wire.Ping(timestamp=number))
            await trio.sleep(1)
        told = [message for message in recorder.heard()[1:] if isinstance(message, wire.Pong)]
        assert [pong.observed for pong in told if pong.timestamp == -1] == ["10.8.8.8:9443"]
        assert {pong.observed for pong in told if pong.timestamp != -1} == {None}


@named
async def test_a_dialer_looks_at_nothing_but_a_good_pong(
    message: Message, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_dialer(lambda recorder: recorder.say(message)) as (peer, contact, heard):
        handled = handle_everything(peer)
        with trio.fail_after(1), pytest.raises(MeshError) as caught:
            await peer.registry.link_to(contact)
        expected: dict[type[Message], type[MeshError]] = {wire.Disconnect: PeerUnavailable, wire.Pong: TrustError}
        assert type(caught.value) is expected.get(type(message), PeerUnavailable)
        assert peer.registry.links == handled == peer.named("link.opened") == []
        await trio.sleep(0.5)
        assert heard[0].reason is CloseReason.CLOSED_BY_PEER


@pytest.mark.parametrize("stream_id", [1, 3, 5])
async def test_a_listener_may_open_no_stream_before_its_proof(
    stream_id: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_dialer(lambda recorder: recorder.write(b"\x01", stream_id)) as (peer, contact, _):
        with trio.fail_after(1), pytest.raises(PeerUnavailable):
            await peer.registry.link_to(contact)
        assert peer.refused == {ErrorCode.PROOF_REQUIRED: 1}


async def test_a_good_pong_makes_a_link_and_a_stranger_s_does_not(autojump_clock: trio.testing.MockClock) -> None:
    peers: list[Peer] = []
    async with a_dialer(lambda recorder: recorder.say(good_pong(recorder, peers[0]))) as (peer, contact, _):
        peers.append(peer)
        assert (await peer.registry.link_to(contact)).node_id == contact.node_id
        with pytest.raises(TrustError, match="but node"):
            await peer.registry.link_to(attrs.evolve(contact, node_id=credentials(3).node_id))
    async with a_dialer(lambda recorder: recorder.say(good_pong(recorder, peers[1], realm="org.x"))) as (
        peer,
        contact,
        _,
    ):
        peers.append(peer)
        with pytest.raises(TrustError):
            await peer.registry.link_to(contact)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("realm_mismatch", RealmMismatch),
        ("bad_proof", TrustError),
        ("proof_required", TrustError),
        ("wrong_peer", TrustError),
        ("untrusted", TrustError),
        ("own_identity", TrustError),  # a claim: only who has met himself knows
        ("identity_conflict", TrustError),
        ("normal", PeerUnavailable),
        ("limit_exceeded", PeerUnavailable),
        ("error", PeerUnavailable),
        ("what is this", PeerUnavailable),
    ],
)
@pytest.mark.parametrize("by", ["DISCONNECT", "QUIC"])
async def test_the_reason_of_a_refusal_is_the_kind_of_the_error(
    by: str, reason: str, kind: type[MeshError], autojump_clock: trio.testing.MockClock
) -> None:
    def answer(recorder: Recorder) -> None:
        if by == "DISCONNECT":
            recorder.say(wire.Disconnect(reason=reason))
        else:
            recorder.connection._quic.close(error_code=1, reason_phrase=reason)

    async with a_dialer(answer) as (peer, contact, _):
        with trio.fail_after(5), pytest.raises(MeshError) as caught:
            await peer.registry.link_to(contact)
        assert type(caught.value) is kind
        if isinstance(caught.value, TrustError):
            assert caught.value.code == reason


async def test_nodes_of_two_realms_are_told_so_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2, realm="org.other") as two:
        with pytest.raises(RealmMismatch):
            await one.registry.link_to(two.contact)
        assert two.refused == {"realm_mismatch": 1}
        [event] = two.named("link.refused")
        assert "org.other" in str(event.facts["reason"])
        assert one.registry.links == two.registry.links == []


# -- after the proof ----------------------------------------------------------------------------------------------


@named
async def test_a_proven_peer_may_say_anything_once(message: Message, autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        recorder.say(message)
        await trio.sleep(0.5)
        counters = scene.peer.registry.counters
        assert counters.unexpected == isinstance(message, REPLIES)
        assert recorder.closed.is_set() == isinstance(message, wire.Disconnect)
        assert scene.peer.endpoint.counters.connections_broken == 0
        if not isinstance(message, (*REPLIES, wire.Disconnect, wire.Ping)):
            assert scene.handled == [message]


async def test_unknown_frames_are_skipped_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        recorder.write(UNKNOWN * 3 + encode_message(wire.Ping(timestamp=77)))
        await trio.sleep(0.1)
        assert scene.peer.registry.counters.unknown_type == 3
        pong = recorder.heard()[-1]
        assert isinstance(pong, wire.Pong)
        assert pong.timestamp == 77


async def test_messages_that_nobody_handles_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_endpoint(network, 2) as attacker:
        recorder = await Scene(peer, [], attacker, network).introduce()
        recorder.say(CALL)
        await trio.sleep(0.1)
        assert peer.registry.counters.unhandled == 1
        assert not recorder.closed.is_set()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_frame(0x20, {}), ErrorCode.MALFORMED_MESSAGE),
        (HEADER.pack(VERSION, 0x20, 1) + b"\xc1", ErrorCode.MALFORMED_PAYLOAD),
        (HEADER.pack(VERSION, 0x20, 2**31), ErrorCode.FRAME_TOO_LARGE),
        (b"\x02" * 8, ErrorCode.UNSUPPORTED_VERSION),
    ],
)
@pytest.mark.parametrize("stream_id", [0, 2, 4])
async def test_a_proven_peer_that_breaks_the_wire_is_told_the_code(
    stream_id: int, data: bytes, code: ErrorCode, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        recorder.write(data, stream_id)
        with trio.fail_after(1):
            await recorder.closed.wait()
        assert recorder.detail == code
        goodbye = recorder.heard()[-1]
        assert isinstance(goodbye, wire.Disconnect)
        assert goodbye.reason == code
        assert scene.peer.registry.links == []
        assert [event.name for event in scene.peer.events] == ["link.opened", "link.refused", "link.closed"]


async def test_a_second_connect_ends_the_link(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        recorder.say(good_connect(recorder))
        await trio.sleep(0.5)
        assert recorder.detail == ErrorCode.UNEXPECTED_MESSAGE
        assert scene.peer.registry.links == []


@pytest.mark.parametrize("how", ["reset", "end"])
async def test_without_its_control_stream_a_link_is_nothing(how: str, autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        if how == "reset":
            recorder.connection._quic.reset_stream(0, 1)
        else:
            recorder.write(b"", end_stream=True)
        recorder.connection._endpoint.mark_written(recorder.connection)  # a reset is no write
        await trio.sleep(6)  # virtual: the one that ended the stream would close next, and is asked whether it lives
        assert scene.peer.registry.links == []
        assert recorder.detail == (ErrorCode.UNEXPECTED_MESSAGE if how == "reset" else ErrorCode.NORMAL)


async def test_a_reset_of_another_stream_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        recorder.write(b"\x01", 4)
        await trio.sleep(0.1)
        recorder.connection._quic.reset_stream(4, 1)
        recorder.say(CALL)
        await trio.sleep(0.1)
        [link] = scene.peer.registry.links
        assert list(link._inbox._decoders) == [0]
        assert scene.handled == [CALL]


async def test_a_peer_that_wants_to_hear_no_more_loses_the_link_and_harms_nobody(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_scene() as scene, open_peer(scene.network, 3) as third:
        await third.registry.link_to(scene.peer.contact)
        recorder = await scene.introduce()
        recorder.connection._quic.stop_stream(0, 1)
        recorder.say(wire.Ping(timestamp=1))
        await trio.sleep(0.5)
        recorder.say(wire.Ping(timestamp=2))
        await trio.sleep(0.5)
        [link] = scene.peer.registry.links
        assert link.node_id == third.node_id
        assert (await link.ask(wire.Ping(timestamp=9), wire.Pong)).timestamp == 9


async def test_who_refuses_the_stream_before_it_has_its_answer_never_becomes_a_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The answer ends the connection; a link made live behind that would never end, and free keys make many."""
    async with a_scene() as scene:
        recorder = await scene.connect()
        recorder.say(good_connect(recorder))
        recorder.connection._quic.stop_stream(0, 1)  # travels in front of the data
        await trio.sleep(0.5)
        assert scene.peer.endpoint.counters.connections_broken == 1
        assert scene.peer.registry.links == scene.peer.named("link.opened") == []
        assert leftovers(scene.peer.endpoint) == {}


async def test_a_peer_may_begin_frames_on_a_bounded_number_of_streams(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        for number in range(1, STREAMS_MAX + 50):
            recorder.write(HEADER.pack(VERSION, 0x20, 100), 4 * number)
            recorder.write(encode_message(CALL), 4 * number + 2, end_stream=True)  # these do not stay
            await trio.sleep(0.01)
        await trio.sleep(0.5)
        assert recorder.detail == ErrorCode.LIMIT_EXCEEDED
        assert len(scene.handled) >= STREAMS_MAX - 2


async def test_a_peer_may_leave_a_bounded_amount_unfinished_on_all_streams(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "BUFFERED_BYTES_MAX", 10_000)
    async with a_scene() as scene:
        recorder = await scene.introduce()
        for number in range(1, 10):  # each far within what a frame may have
            recorder.write(HEADER.pack(VERSION, 0x20, 1_000_000) + bytes(4000), 4 * number)
            await trio.sleep(0.1)
            assert recorder.closed.is_set() == (number > 2)
        assert recorder.detail == ErrorCode.LIMIT_EXCEEDED
        assert scene.peer.refused == {ErrorCode.LIMIT_EXCEEDED: 1}


# -- asking ---------------------------------------------------------------------------------------------------------


async def test_no_more_than_so_many_questions_wait_for_their_answers(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks_module, "ASKS_MAX", 3)
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        two.registry.handle(wire.FindNode, lambda _link, _query: None)
        to_two = await one.registry.link_to(two.contact)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                query = wire.FindNode(target=KEY, correlation_id=bytes([number]) * 16)
                nursery.start_soon(to_two.ask, query, wire.FindNodeReply)
            await trio.sleep(0.1)
            with pytest.raises(NotSent, match="waiting"):
                await to_two.ask(wire.Ping(timestamp=1), wire.Pong)
            nursery.cancel_scope.cancel()
        assert (await to_two.ask(wire.Ping(timestamp=1), wire.Pong)).timestamp == 1


async def test_an_answer_of_another_kind_is_the_peer_s_fault_and_not_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        two.registry.handle(
            wire.FindNode,
            lambda link, query: link.send_nowait(wire.StoreReply(result="ok", correlation_id=query.correlation_id)),
        )
        link = await one.registry.link_to(two.contact)
        with pytest.raises(RemoteProtocolError):
            await link.ask(wire.FindNode(target=KEY, correlation_id=ID), wire.FindNodeReply)
        assert not link.is_closed
        assert len(link._asks) == 0


async def test_the_end_of_a_link_fails_what_waits_and_calls_back_once(autojump_clock: trio.testing.MockClock) -> None:
    network, called, failed = SimNetwork(), list[str](), list[str]()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)

        def call_back() -> None:
            called.append("once")

        link.add_close_callback(call_back)
        link.add_close_callback(forgotten := lambda: called.append("never"))
        link.remove_close_callback(forgotten)
        link.remove_close_callback(forgotten)

        async def ask(number: int) -> None:
            with pytest.raises(PeerUnavailable) as caught:
                await link.ask(wire.FindNode(target=KEY, correlation_id=bytes([number]) * 16), wire.FindNodeReply)
            failed.append(str(caught.value))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(ask, number)
                await trio.sleep(1)
                assert failed == []
                two.registry.leave()
        assert len(failed) == 10
        assert "closing" in failed[0]
        assert called == ["once"]
        link.close()
        assert called == ["once"]
        link.add_close_callback(call_back)  # too late: at once
        assert called == ["once", "once"]
        with pytest.raises(PeerUnavailable):
            link.send_nowait(CALL)
        with pytest.raises(PeerUnavailable):
            await link.ask(wire.Ping(timestamp=1), wire.Pong)
        assert len(link._asks) == 0


async def test_who_stops_waiting_for_an_answer_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)
        with trio.move_on_after(1):
            await link.ask(wire.FindNode(target=KEY, correlation_id=ID), wire.FindNodeReply)
        assert len(link._asks) == 0
        two.registry.links[0].send_nowait(wire.FindNodeReply(nodes=(), correlation_id=ID))
        await trio.sleep(0.1)
        assert one.registry.counters.unexpected == 1


def stop_reading(recorder: Recorder) -> None:
    """From now on the peer may send no more than the first windows of flow control."""
    connection = recorder.connection._quic
    connection._write_connection_limits = connection._write_stream_limits = lambda **_: None  # type: ignore[method-assign]


@pytest.mark.parametrize("forges", [False, True])
async def test_a_peer_that_asks_and_never_reads_is_given_up(
    forges: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Also one that credits what it has not read: it knows the length of everything that it made us write."""
    network, answer = SimNetwork(), wire.Store(key=KEY, value={"x": bytes(500_000)})
    async with open_peer(network, 1) as peer, open_endpoint(network, 2) as attacker:
        peer.registry.handle(wire.FindNode, lambda link, _query: link.send_nowait(answer))
        recorder = await connect_bare(attacker, peer.address)
        stop_reading(recorder)
        recorder.say(good_connect(recorder))
        await trio.sleep(0.1)
        [link] = peer.registry.links
        for _ in range(2 * BACKLOG_BYTES_MAX // 500_000):
            recorder.say(wire.FindNode(target=KEY, correlation_id=ID))
            await trio.sleep(0.05)
            if forges:
                recorder.say(wire.Credit(scope="link", id=b"", credit=link._sent._written))
        assert link.is_closed
        assert "has not taken" in str(peer.named("link.closed")[0].facts["reason"])


# -- peers that prove nothing -----------------------------------------------------------------------------------------

V08_CONNECT: Final = wire.Connect(
    realm_id=REALM, node_id=KEY, capabilities=("pubsub",), endpoint="https://localhost:9443"
)


def unverified() -> Any:
    return a_scene(trust=Trust.unverified())


@pytest.mark.parametrize("stream_id", [0, 4, 12])
async def test_a_stranger_is_answered_on_the_stream_on_which_it_asked(
    stream_id: int, autojump_clock: trio.testing.MockClock
) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, trust=Trust.unverified()) as peer, open_endpoint(network, 2) as attacker:
        peer.registry.handle(wire.FindNode, lambda link, _query: link.send_nowait(wire.FindNodeReply(nodes=())))
        recorder = await connect_bare(attacker, peer.address)
        recorder.say(wire.FindNode(target=KEY), stream_id)
        recorder.say(wire.Ping(timestamp=5), stream_id + 4)
        await trio.sleep(0.2)
        assert recorder.heard(stream_id) == [wire.FindNodeReply(nodes=())]
        assert [type(message) for message in recorder.heard(stream_id + 4)] == [wire.Pong]
        assert set(recorder.data) == {stream_id, stream_id + 4}
        [link] = peer.registry.links
        assert (link.node_id, link.verified) == (None, False)


@pytest.mark.parametrize("first", [(), (wire.Ping(timestamp=1),)], ids=["first", "later"])
async def test_a_connect_without_proof_gets_its_pong_and_makes_nobody_known(
    first: tuple[Message, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with unverified() as scene:
        recorder = await scene.connect()
        for message in first:
            recorder.say(message)
        recorder.say(V08_CONNECT)
        await trio.sleep(0.2)
        pong = recorder.heard()[-1]
        assert isinstance(pong, wire.Pong)
        assert pong.node_id == scene.peer.node_id
        [link] = scene.peer.registry.links
        assert not link.verified
        assert scene.peer.registry.live_link(macula.NodeId(KEY)) is None
        recorder.connection.close(ErrorCode.NORMAL)
        await trio.sleep(1)
        assert scene.peer.registry.links == []


@pytest.mark.parametrize("first", [(), (wire.Ping(timestamp=1),)], ids=["first", "later"])
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda connect: attrs.evolve(connect, proof=b"bad"), ErrorCode.BAD_PROOF),
        (lambda connect: attrs.evolve(connect, node_id=KEY), ErrorCode.BAD_PROOF),
        (lambda connect: attrs.evolve(connect, realm_id="org.other", proof=None), ErrorCode.REALM_MISMATCH),
    ],
)
async def test_a_bad_proof_is_refused_even_where_none_is_needed(
    first: tuple[Message, ...],
    spoil: Callable[[wire.Connect], wire.Connect],
    code: ErrorCode,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with unverified() as scene:
        recorder = await scene.connect()
        for message in first:
            recorder.say(message)
        recorder.say(spoil(good_connect(recorder)))
        await trio.sleep(0.5)
        assert recorder.detail == code
        assert scene.peer.refused == {code: 1}
        assert scene.peer.registry.links == []


@pytest.mark.parametrize("first", [(), (wire.Ping(timestamp=1),)], ids=["first", "later"])
async def test_a_stranger_that_says_a_blocked_id_is_taken_at_its_word(
    first: tuple[Message, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """A v0.8 peer proves nothing, and it too can be blocked, as long as it does not lie."""
    async with unverified() as scene:
        scene.peer.party.judge.block(macula.NodeId(KEY))
        recorder = await scene.connect()
        for message in first:
            recorder.say(message)
        recorder.say(V08_CONNECT)
        await trio.sleep(0.5)
        assert scene.peer.refused == {ErrorCode.UNTRUSTED: 1}
        assert scene.peer.registry.links == []


async def test_a_live_link_with_a_stranger_ends_when_the_id_that_it_says_is_blocked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with unverified() as scene:
        recorder = await scene.connect()
        recorder.say(V08_CONNECT)
        await trio.sleep(0.2)
        scene.peer.party.judge.block(macula.NodeId(KEY))
        scene.peer.registry.judge_again()
        assert scene.peer.registry.links == []


async def test_a_stranger_that_claims_a_proven_peer_s_id_does_not_replace_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with unverified() as scene, open_peer(scene.network, 3, trust=Trust.unverified()) as third:
        link = await third.registry.link_to(scene.peer.contact)
        recorder = await scene.connect()
        recorder.say(attrs.evolve(V08_CONNECT, node_id=third.node_id, instance=b"anotherinstance!"))
        await trio.sleep(0.2)
        assert len(scene.peer.registry.links) == 2
        live = scene.peer.registry.live_link(third.node_id)
        assert live is not None
        assert live.verified
        assert not link.is_closed


async def test_what_a_v08_client_says_in_a_session_does_not_end_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = json.loads((Path(__file__).parents[1] / "vectors" / "transcript_client_session.json").read_text())
    network = SimNetwork()
    config = macula.NodeConfig(realm="com.example.realm", listen="10.0.0.1:9443", trust=Trust.unverified())
    async with (
        macula.open_node(config, network=network) as node,
        open_endpoint(network, 2, idle_timeout_s=30) as client,
    ):
        recorder = await connect_bare(client, parse_endpoint(node.endpoint))
        for step in steps:
            if step["dir"] == "erl->py":
                await trio.sleep(max(0, step["t"] - trio.current_time()))
                recorder.write(bytes.fromhex(step["hex"]), step["stream"])
        await trio.sleep(1)
        assert not recorder.closed.is_set()
        heard = [type(message) for message in recorder.heard()]
        assert heard.count(wire.Pong) == 5  # one for CONNECT, one for each PING
        assert wire.FindValueReply in heard
        assert node.known_nodes() == []
        [peer] = node.peers()
        assert not peer.verified
        assert node.statistics().messages_unhandled == 0


# -- what one peer may bring in a while ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "message"), [("frames", CALL), ("bytes", CALL), ("noise", wire.SwimPing()), ("noise", None)]
)
async def test_who_brings_more_than_anybody_may_is_sent_away(
    budget: str, message: Message | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_scene() as scene:
        if isinstance(message, wire.SwimPing):
            del scene.peer.registry._handlers[wire.SwimPing]
        recorder = await scene.introduce()
        link = scene.peer.registry.links[-1]
        setattr(link._budget, budget, TokenBucket(1, 500))
        data = UNKNOWN if message is None else encode_message(message)
        for _ in range(500 if budget != "bytes" else 500 // len(data)):
            recorder.write(data)
            await trio.sleep(0.01)
        assert not recorder.closed.is_set()
        for _ in range(50):
            recorder.write(data)
        await trio.sleep(1)
        assert recorder.detail == ErrorCode.LIMIT_EXCEEDED
        assert scene.peer.refused == {ErrorCode.LIMIT_EXCEEDED.value: 1}


async def test_every_frame_is_work_that_its_peer_is_charged_for(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        share = scene.peer.registry.links[-1]._connection._share = TokenBucket(1e-9, 1000)
        recorder.write(encode_message(CALL) * 300)  # many in few datagrams
        await trio.sleep(0.5)
        assert len(scene.handled) == 300
        assert not share.take(701, trio.current_time())
        assert share.take(600, trio.current_time())


async def test_pings_beyond_the_bearable_are_counted_and_not_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with a_scene() as scene:
        recorder = await scene.introduce()
        scene.peer.registry.links[-1]._budget.pings = TokenBucket(1, 10)
        for number in range(30):
            recorder.say(wire.Ping(timestamp=number))
        await trio.sleep(1)
        assert [m.timestamp for m in recorder.heard()[1:] if isinstance(m, wire.Pong)] == list(range(10))
        assert scene.peer.registry.counters.excess == 20
        assert not recorder.closed.is_set()
