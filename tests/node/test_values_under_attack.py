"""Values that their owner did not sign so, told by a proven peer that lies: not stored, not returned, not believed.

The same lies are told in all three ways in which values travel: in STORE, in FIND_VALUE_REPLY, and as what is held
instead in a refusal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import attrs
import pytest
import trio

import macula_trio as macula
from macula_trio import Contact, Record, abc
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import sign_record
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing.network import EPOCH_MS

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
Value: TypeAlias = dict[str, Any]

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
HOUR_MS: Final = 3_600_000
FAR: Final = EPOCH_MS + 1000 * HOUR_MS  # a version above all that anybody signs here


@attrs.frozen
class Lie:
    """What an attacker who has seen a genuine value can make of it, and why it is refused.

    Attributes:
      make: of the genuine value, its owner's key and the attacker's.
      reason: given by STORE_REPLY.
    """

    make: Callable[[Record, Credentials, Credentials], Value]
    reason: str


def signed(by: Credentials, genuine: Record, **changes: Any) -> Record:
    """What ``by`` really signs."""
    fields: dict[str, Any] = {
        "realm": "org.example.test",
        "key": genuine.key,
        "kind": genuine.kind,
        "endpoint": genuine.endpoint,
        "metadata": genuine.metadata,
        "seq": FAR,
        "expires_ms": genuine.expires_ms,
    }
    return sign_record(by, **(fields | changes))


def in_the_name_of(owner: Credentials, attacker: Credentials) -> Credentials:
    """What signs with the attacker's key, and says that it is the owner."""
    impostor = Credentials(attacker.private_key, attacker.chain)
    object.__setattr__(impostor, "node_id", owner.node_id)
    return impostor


def changed(**changes: Any) -> Callable[[Record, Credentials, Credentials], Value]:
    return lambda genuine, _owner, _attacker: genuine.to_value() | changes


def without(field: str) -> Callable[[Record, Credentials, Credentials], Value]:
    return lambda genuine, _owner, _attacker: {k: v for k, v in genuine.to_value().items() if k != field}


def signed_elsewhere(**changes: Any) -> Callable[[Record, Credentials, Credentials], Value]:
    """A value that its owner did sign: for another place."""
    return lambda genuine, owner, _attacker: signed(owner, genuine, **changes).to_value() | {"kind": genuine.kind}


LIES: Final[Mapping[str, Lie]] = {
    "forged": Lie(
        lambda genuine, owner, attacker: (
            signed(attacker, genuine).to_value() | {"node_id": owner.node_id, "public_key": owner.spki}
        ),
        "bad_signature",
    ),
    "of a foreign key": Lie(
        lambda genuine, owner, attacker: signed(in_the_name_of(owner, attacker), genuine).to_value(),
        "bad_signature",
    ),
    "under a foreign name": Lie(
        lambda genuine, owner, attacker: signed(attacker, genuine).to_value() | {"node_id": owner.node_id},
        "bad_signature",
    ),
    "of an owner that nobody is": Lie(changed(node_id=bytes(32)), "bad_signature"),
    "replayed": Lie(
        lambda genuine, owner, _attacker: signed(owner, genuine, seq=genuine.seq - 1, endpoint="10.6.6.6:1").to_value(),
        "stale",
    ),
    "moved to another key": Lie(signed_elsewhere(key=OTHER_KEY), "bad_signature"),
    "moved to another kind": Lie(signed_elsewhere(kind="subscriber"), "bad_signature"),
    "moved to another realm": Lie(signed_elsewhere(realm="org.example.other"), "bad_signature"),
    "prolonged": Lie(
        lambda genuine, _owner, _attacker: genuine.to_value() | {"expires_ms": genuine.expires_ms + HOUR_MS},
        "bad_signature",
    ),
    "of a later version": Lie(changed(seq=FAR), "bad_signature"),
    "at another endpoint": Lie(changed(endpoint="10.6.6.6:1"), "bad_signature"),
    "with other metadata": Lie(changed(metadata={"n": 2}), "bad_signature"),
    "withdrawn by another": Lie(changed(endpoint=None, metadata={}), "bad_signature"),
    "expired": Lie(
        lambda genuine, owner, _attacker: signed(owner, genuine, expires_ms=EPOCH_MS).to_value(),
        "expired",
    ),
    "cut in its signature": Lie(
        lambda genuine, _owner, _attacker: genuine.to_value() | {"signature": genuine.signature[:-1]}, "bad_signature"
    ),
    "cut in its public key": Lie(
        lambda genuine, _owner, _attacker: genuine.to_value() | {"public_key": genuine.spki[:-1]}, "bad_signature"
    ),
    **{
        f"without its {field}": Lie(without(field), "malformed")
        for field in ("kind", "node_id", "metadata", "seq", "expires_ms", "public_key", "signature")
    },
    "without its endpoint": Lie(without("endpoint"), "bad_signature"),  # that is how a tombstone looks
    "of no kind": Lie(changed(kind="king"), "malformed"),
    "of a negative version": Lie(changed(seq=-1), "malformed"),
    "empty": Lie(lambda *_: {}, "malformed"),
}
every_lie = pytest.mark.parametrize("lie", LIES.values(), ids=LIES)


@attrs.define(eq=False)
class Scene:
    """A mesh in which one value of the owner lies at everybody but the attacker."""

    nodes: list[macula.Node]
    genuine: Record
    events: list[macula.Event]  # of all but the attacker
    asked: int = 0

    @property
    def replica(self) -> macula.Node:
        return self.nodes[0]

    @property
    def owner(self) -> macula.Node:
        return self.nodes[1]

    @property
    def attacker(self) -> macula.Node:
        return self.nodes[2]

    @property
    def reader(self) -> macula.Node:
        return self.nodes[3]

    @property
    def honest(self) -> list[macula.Node]:
        return [node for node in self.nodes if node is not self.attacker]

    def lie(self, lie: Lie) -> Value:
        return lie.make(self.genuine, self.owner._party.credentials, self.attacker._party.credentials)

    async def assert_unharmed(self, expected: Record) -> None:
        """Everybody holds and finds the genuine value and nothing else, and goes on serving."""
        await trio.sleep(1)  # virtual: repairs have run
        for node in self.honest:
            assert node.stored_values() == [expected]
            assert await node.find_value(KEY) == [expected]
            assert await node.find_value(OTHER_KEY) == []
            contacts = [Contact(node_id=self.owner.node_id, endpoint=self.owner.endpoint)]
            assert [advert.contact for advert in await node._dht.find(KEY, "service")] == contacts
            assert await node._dht.find(KEY, "subscriber") == []
        async with self.replica.advertise("still.here", answer):
            assert await self.reader.call("still.here") == "yes"

    def refusals(self) -> list[macula.Event]:
        return [event for event in self.events if event.name == "dht.value_refused"]


async def answer(call: macula.Call) -> object:
    return "yes"


@asynccontextmanager
async def open_scene() -> AsyncGenerator[Scene, None]:
    network = SimNetwork()
    async with open_mesh(4, network=network) as nodes:
        await trio.sleep(3)  # virtual: everybody has met everybody
        await nodes[1].store(KEY, {"n": 1}, quorum=4)
        (genuine,) = await nodes[3].find_value(KEY)
        scene = Scene(nodes, genuine, [])
        for node in scene.honest:
            node._events.listen(scene.events.append)
        yield scene


def answer_by(node: macula.Node, message_type: type[Any], handler: Callable[[abc.Link, Any], None]) -> None:
    """From now on the node answers these messages as it likes."""
    node._registry._handlers[message_type] = handler


@every_lie
async def test_a_lie_is_not_stored(lie: Lie, autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        for node in scene.honest:
            link = scene.attacker._registry.live_link(node.node_id)
            assert link is not None
            assert link.verified
            store = wire.Store(key=KEY, value=scene.lie(lie), correlation_id=bytes(16))
            reply = await link.ask(store, wire.StoreReply)
            assert (reply.result, reply.reason) == ("error", lie.reason)
            assert not link.is_closed
        assert len(scene.refusals()) == (3 if lie.reason in ("bad_signature", "malformed") else 0)
        await scene.assert_unharmed(scene.genuine)


@every_lie
async def test_a_lie_is_not_believed_by_readers(lie: Lie, autojump_clock: Clock) -> None:
    async with open_scene() as scene:

        def tell(link: abc.Link, query: wire.FindValue) -> None:
            scene.asked += 1
            value = scene.lie(lie)
            link.send_nowait(
                wire.FindValueReply(
                    result="value",
                    value=(value, value) if query.key == KEY else (),
                    nodes=(),
                    more=True,
                    correlation_id=query.correlation_id,
                )
            )

        answer_by(scene.attacker, wire.FindValue, tell)
        await scene.assert_unharmed(scene.genuine)
        assert scene.asked >= len(scene.honest)
        if lie.reason in ("bad_signature", "malformed"):
            assert {event.facts["peer"] for event in scene.refusals()} == {scene.attacker.node_id.hex()}
        else:
            assert scene.refusals() == []


@every_lie
async def test_a_lie_about_what_is_held_does_not_move_the_owner(lie: Lie, autojump_clock: Clock) -> None:
    async with open_scene() as scene:

        def refuse(link: abc.Link, request: wire.Store) -> None:
            scene.asked += 1
            link.send_nowait(
                wire.StoreReply(
                    result="error", reason="stale", value=scene.lie(lie), correlation_id=request.correlation_id
                )
            )

        answer_by(scene.attacker, wire.Store, refuse)
        report = await scene.owner.store(KEY, {"n": 1})
        assert report.refused == {scene.attacker.node_id: "stale"}
        assert set(report.stored) == {node.node_id for node in scene.honest}
        (newest,) = await scene.reader.find_value(KEY)
        believed = lie is LIES["expired"]  # it does show a later version, which the owner once signed
        assert (newest.seq > FAR) == believed
        assert scene.asked == (2 if believed else 1)
        await scene.assert_unharmed(newest)


@pytest.mark.parametrize("whose", ["the attacker's", "of another kind"])
async def test_a_genuine_value_of_another_place_does_not_move_the_owner(whose: str, autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        owner, attacker = (node._party.credentials for node in (scene.owner, scene.attacker))
        kind = "subscriber" if whose == "of another kind" else "service"
        held = signed(owner if whose == "of another kind" else attacker, scene.genuine, kind=kind)

        def refuse(link: abc.Link, request: wire.Store) -> None:
            scene.asked += 1
            link.send_nowait(
                wire.StoreReply(
                    result="error", reason="stale", value=held.to_value(), correlation_id=request.correlation_id
                )
            )

        answer_by(scene.attacker, wire.Store, refuse)
        report = await scene.owner.store(KEY, {"n": 1})
        assert report.refused == {scene.attacker.node_id: "stale"}
        assert scene.asked == 1
        (newest,) = await scene.reader.find_value(KEY)
        assert newest.seq < FAR
        await scene.assert_unharmed(newest)


async def test_what_we_have_just_sent_is_no_later_version(autojump_clock: Clock) -> None:
    async with open_scene() as scene:

        def refuse(link: abc.Link, request: wire.Store) -> None:
            scene.asked += 1
            link.send_nowait(
                wire.StoreReply(
                    result="error", reason="stale", value=request.value, correlation_id=request.correlation_id
                )
            )

        answer_by(scene.attacker, wire.Store, refuse)
        assert (await scene.owner.store(KEY, {"n": 1})).refused == {scene.attacker.node_id: "stale"}
        assert scene.asked == 1


async def test_endless_pages_end(autojump_clock: Clock) -> None:
    async with open_scene() as scene:

        def tell(link: abc.Link, query: wire.FindValue) -> None:
            scene.asked += 1
            link.send_nowait(
                wire.FindValueReply(
                    result="value",
                    value=(scene.genuine.to_value(),),
                    more=True,
                    correlation_id=query.correlation_id,
                )
            )

        answer_by(scene.attacker, wire.FindValue, tell)
        assert await scene.reader.find_value(KEY) == [scene.genuine]
        assert scene.asked == 2


async def test_a_reason_of_a_mile_is_cut(autojump_clock: Clock) -> None:
    async with open_scene() as scene:

        def refuse(link: abc.Link, request: wire.Store) -> None:
            link.send_nowait(
                wire.StoreReply(result="error", reason="x" * 100_000, correlation_id=request.correlation_id)
            )

        answer_by(scene.attacker, wire.Store, refuse)
        report = await scene.owner.store(KEY, {"n": 1})
        assert len(report.refused[scene.attacker.node_id]) < 1000
