"""The frames each of which ended v0.8.0's gateway, or shut everybody out of it: here they cost their sender its link.

Whoever sends one, somebody honest calls the same node before, meanwhile and afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import pytest
import trio
from quic_tools import REALM, Recorder, connect_bare, credentials, host, open_endpoint

import macula_trio as macula
from macula_trio._net.quic import CloseReason
from macula_trio._peer.handshake import LocalParty, make_connect
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_frame, encode_message
from macula_trio._wire.frame import HEADER, VERSION, MessageType
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

ATTACKER: Final = 9
KEY: Final = bytes(range(32))
PROCEDURE: Final = "test.echo"
REACTION_S: Final = 2  # virtual: a refusal takes a round trip

ELSEWHERE: Final = "org.other"
FRAMES: Final[dict[str, tuple[bytes, ErrorCode]]] = {
    "STORE of a list": (
        encode_frame(MessageType.STORE, {"type": "store", "key": KEY, "value": [1, 2, 3]}),
        ErrorCode.MALFORMED_MESSAGE,
    ),
    "STORE of a text": (
        encode_frame(MessageType.STORE, {"type": "store", "key": KEY, "value": "not a map"}),
        ErrorCode.MALFORMED_MESSAGE,
    ),
    "FIND_NODE without a target": (
        encode_frame(MessageType.FIND_NODE, {"type": "find_node"}),
        ErrorCode.MALFORMED_MESSAGE,
    ),
    "CONNECT without a realm": (
        encode_frame(MessageType.CONNECT, {"version": "1.0", "node_id": KEY, "capabilities": []}),
        ErrorCode.MALFORMED_MESSAGE,
    ),
    "CONNECT of another realm": (
        encode_frame(MessageType.CONNECT, {"version": "1.0", "node_id": KEY, "realm_id": ELSEWHERE}),
        ErrorCode.REALM_MISMATCH,
    ),
    "CALL without an id": (
        encode_frame(MessageType.CALL, {"procedure": PROCEDURE, "args": b"[]"}),
        ErrorCode.MALFORMED_MESSAGE,
    ),
    "PING of a list": (HEADER.pack(VERSION, MessageType.PING, 1) + b"\x90", ErrorCode.MALFORMED_PAYLOAD),
    "PING of nothing": (HEADER.pack(VERSION, MessageType.PING, 0), ErrorCode.MALFORMED_PAYLOAD),
}

every_frame = pytest.mark.parametrize("name", FRAMES)


async def echo(call: macula.Call) -> object:
    return call.args


@attrs.define(eq=False)
class Scene:
    """A node, somebody honest who calls it all the time, and somebody else who may say anything to it."""

    node: macula.Node
    attack: Recorder
    answers: int = 0
    answered: trio.Event = attrs.field(factory=trio.Event)

    async def wait_answers(self, count: int) -> None:
        for _ in range(count):
            self.answered = trio.Event()
            with trio.fail_after(REACTION_S):
                await self.answered.wait()

    async def assert_refused(self, code: ErrorCode) -> None:
        """The attacker is told why, and loses its link and nothing else happens; the others notice nothing."""
        before = self.node.statistics()
        others = [peer.node_id for peer in self.node.peers() if peer.node_id is not None and peer.verified]
        with trio.fail_after(REACTION_S):
            await self.attack.closed.wait()
        assert self.attack.reason is CloseReason.CLOSED_BY_PEER
        assert self.attack.detail == code.value
        goodbye = self.attack.heard()[-1]
        assert isinstance(goodbye, wire.Disconnect)
        assert goodbye.reason == code.value
        assert goodbye.message
        await self.wait_answers(3)
        after = self.node.statistics()
        assert after.refused.get(code.value, 0) == before.refused.get(code.value, 0) + 1
        assert sum(after.refused.values()) == sum(before.refused.values()) + 1
        assert after.connections_broken == 0
        assert (after.table_size, after.stored_values) == (before.table_size, before.stored_values)
        attacker = credentials(ATTACKER).node_id
        assert [peer.node_id for peer in self.node.peers()] == [other for other in others if other != attacker]


@asynccontextmanager
async def a_scene(trust: macula.Trust) -> AsyncGenerator[Scene, None]:
    network = SimNetwork()
    config = macula.NodeConfig(realm=REALM, trust=trust)
    async with (
        open_mesh(2, network=network, config=config) as (node, honest),
        node.advertise(PROCEDURE, echo),
        open_endpoint(network, ATTACKER) as endpoint,
        trio.open_nursery() as nursery,
    ):
        scene = Scene(node, await connect_bare(endpoint, parse_endpoint(node.endpoint)))

        async def call_on_and_on() -> None:
            while True:
                with trio.fail_after(REACTION_S):
                    assert await honest.call(PROCEDURE, scene.answers) == scene.answers
                scene.answers += 1
                scene.answered.set()
                await trio.sleep(0.001)

        nursery.start_soon(call_on_and_on)
        await scene.wait_answers(3)
        yield scene
        nursery.cancel_scope.cancel()


def introduction(recorder: Recorder, *, realm: str = REALM) -> bytes:
    """A CONNECT with a good proof."""
    party = LocalParty(
        credentials=credentials(ATTACKER),
        instance=b"attackerattacker",
        realm=realm,
        trust=macula.Trust.open(),
        endpoint=format_endpoint(host(ATTACKER)),
    )
    return encode_message(make_connect(party, binding=recorder.connection.binding, peer=None))


@every_frame
async def test_from_a_peer_that_has_proven_nothing(name: str, autojump_clock: Clock) -> None:
    frame, code = FRAMES[name]
    async with a_scene(macula.Trust.open()) as scene:
        scene.attack.write(frame)
        await scene.assert_refused(code)


@every_frame
async def test_from_a_proven_peer(name: str, autojump_clock: Clock) -> None:
    frame, code = FRAMES[name]
    async with a_scene(macula.Trust.open()) as scene:
        scene.attack.write(introduction(scene.attack))
        await scene.wait_answers(3)
        assert isinstance(scene.attack.heard()[0], wire.Pong)
        assert credentials(ATTACKER).node_id in {peer.node_id for peer in scene.node.peers() if peer.verified}
        scene.attack.write(frame)
        # Whatever a second CONNECT says, there is none.
        await scene.assert_refused(ErrorCode.UNEXPECTED_MESSAGE if code is ErrorCode.REALM_MISMATCH else code)


@every_frame
async def test_as_the_first_word_to_a_node_that_wants_no_proof(name: str, autojump_clock: Clock) -> None:
    frame, code = FRAMES[name]
    async with a_scene(macula.Trust.unverified()) as scene:
        scene.attack.write(frame)
        await scene.assert_refused(code)


@every_frame
async def test_in_the_midst_of_a_talk_with_a_node_that_wants_no_proof(name: str, autojump_clock: Clock) -> None:
    frame, code = FRAMES[name]
    async with a_scene(macula.Trust.unverified()) as scene:
        scene.attack.say(wire.Ping(timestamp=7))
        await scene.wait_answers(3)
        assert [type(message) for message in scene.attack.heard()] == [wire.Pong]
        assert len(scene.node.peers()) == 2
        scene.attack.write(frame)
        await scene.assert_refused(code)


@pytest.mark.parametrize("trust", [macula.Trust.open, macula.Trust.unverified])
async def test_a_proven_node_of_another_realm_shuts_nobody_out(
    trust: Callable[[], macula.Trust], autojump_clock: Clock
) -> None:
    async with a_scene(trust()) as scene:
        scene.attack.write(introduction(scene.attack, realm=ELSEWHERE))
        await scene.assert_refused(ErrorCode.REALM_MISMATCH)
