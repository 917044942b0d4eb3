"""What every transport of links promises: the real one over QUIC, and the one that large simulations run on.

That both pass is why a simulation may be believed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from frame_tools import frame_peer, served
from quic_tools import credentials, open_peer

from macula_trio._events import Event
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.registry import LINKS_PER_PEER_MAX, LinkRegistry
from macula_trio._peer.window import BACKLOG_BYTES_MAX, WINDOW_BYTES
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MAX_PAYLOAD
from macula_trio.abc import Link, LinkTransport
from macula_trio.errors import (
    NotSent,
    OwnIdentity,
    PayloadTooLarge,
    PeerUnavailable,
    RealmMismatch,
    RemoteProtocolError,
    TrustError,
)
from macula_trio.testing import SimNetwork
from macula_trio.testing.frames import FrameNetwork

Clock = trio.testing.MockClock
NOBODY = "10.9.9.9:9443"
LATENCY_S = 0.001  # of both networks by default


@attrs.frozen
class Party:
    """One node, below its services.

    Attributes:
      leave: ends it in order.
      die: ends it without a word.
    """

    transport: LinkTransport
    contact: Contact
    events: list[Event]
    leave: Callable[[], None]
    die: Callable[[], None]

    @property
    def node_id(self) -> NodeId:
        return self.contact.node_id

    @property
    def keeps_links(self) -> bool:
        """Over QUIC one link of a pair stays, kept alive; meshes of frames leave that to QUIC's idle time-out."""
        return isinstance(self.transport, LinkRegistry)

    def opened(self) -> int:
        return sum(event.name == "link.opened" for event in self.events)

    def live(self) -> int:
        return self.opened() - sum(event.name == "link.closed" for event in self.events)


Open = Callable[..., AbstractAsyncContextManager[Party]]


def over_quic() -> AbstractAsyncContextManager[Open]:
    @asynccontextmanager
    async def network() -> AsyncGenerator[Open, None]:
        datagrams = SimNetwork()

        @asynccontextmanager
        async def party(number: int, **changes: Any) -> AsyncGenerator[Party, None]:
            async with open_peer(datagrams, number, **changes) as peer:
                die = datagrams.host(peer.address[0]).crash
                yield Party(peer.registry, peer.contact, peer.events, peer.registry.leave, die)

        await trio.lowlevel.checkpoint()
        yield party

    return network()


def over_frames() -> AbstractAsyncContextManager[Open]:
    @asynccontextmanager
    async def network() -> AsyncGenerator[Open, None]:
        async with served(FrameNetwork()) as frames:

            @asynccontextmanager
            async def party(number: int, **changes: Any) -> AsyncGenerator[Party, None]:
                peer = frame_peer(frames, number, **changes)
                await trio.lowlevel.checkpoint()
                yield Party(peer.transport, peer.contact, peer.events, peer.transport.leave, peer.transport.crash)
                peer.transport.crash()

            yield party

    return network()


@pytest.fixture(params=[over_quic, over_frames])
def network(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Open]:
    opened: AbstractAsyncContextManager[Open] = request.param()
    return opened


Network = AbstractAsyncContextManager[Open]


def answer(link: Link, query: wire.FindNode) -> None:
    entry = wire.NodeEntry(node_id=query.target, address="10.0.0.1:1")
    link.send_nowait(wire.FindNodeReply(nodes=(entry,), correlation_id=query.correlation_id))


def question(number: int = 0) -> wire.FindNode:
    return wire.FindNode(target=bytes([number]) * 32, correlation_id=bytes([number]) * 16)


def large(size: int) -> wire.Cast:
    return wire.Cast(procedure="a.b", args=bytes(size))


async def test_a_question_gets_its_own_answer(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        two.transport.handle(wire.FindNode, answer)
        link = await one.transport.link_to(two.contact)
        targets: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            reply = await link.ask(question(number), wire.FindNodeReply)
            targets[number] = reply.nodes[0].node_id

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert targets == {number: bytes([number]) * 32 for number in range(20)}
        assert (await link.ask(wire.Ping(timestamp=7), wire.Pong)).timestamp == 7


async def test_both_sides_know_whom_they_talk_to(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1, capabilities=("leaf",)) as one, opens(2) as two:
        link = await one.transport.link_to(two.contact)
        await trio.sleep(0.1)
        back = two.transport.live_link(one.node_id)
        assert back is not None
        assert (link.node_id, link.endpoint, link.proven_endpoint) == (
            two.node_id,
            two.contact.endpoint,
            two.contact.endpoint,
        )
        assert (back.node_id, back.endpoint, back.proven_endpoint) == (
            one.node_id,
            one.contact.endpoint,
            one.contact.endpoint,
        )
        assert link.verified
        assert back.verified
        assert (link.capabilities, back.capabilities) == (frozenset(), {"leaf"})
        assert one.transport.live_link(two.node_id) is link
        assert await one.transport.link_to(two.contact) is link
        assert await two.transport.link_to(one.contact) is back


async def test_an_endpoint_that_is_not_where_it_is_proves_nothing(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2, endpoint=NOBODY) as two:
        await two.transport.link_to(one.contact)
        await trio.sleep(0.1)
        link = one.transport.live_link(two.node_id)
        assert link is not None
        assert (link.endpoint, link.proven_endpoint) == (NOBODY, None)


async def test_a_dial_takes_two_round_trips(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        started = trio.current_time()
        await one.transport.link_to(two.contact)
        assert trio.current_time() - started == pytest.approx(4 * LATENCY_S)


async def test_nobody_answers_where_nobody_is(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1, dial_deadline_s=2) as one:
        started = trio.current_time()
        with pytest.raises(PeerUnavailable):
            await one.transport.link_to(Contact(node_id=credentials(9).node_id, endpoint=NOBODY))
        assert trio.current_time() - started == pytest.approx(2)
        with pytest.raises(PeerUnavailable):
            await one.transport.dial_endpoint("a.name.example:9443")
        assert trio.current_time() - started == pytest.approx(2)


async def test_somebody_else_is_refused(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two, opens(3, realm="org.example.other") as three:
        with pytest.raises(TrustError):
            await one.transport.link_to(Contact(node_id=credentials(9).node_id, endpoint=two.contact.endpoint))
        with pytest.raises(TrustError):
            await one.transport.dial_endpoint(two.contact.endpoint, expected=credentials(9).node_id, trusted=True)
        with pytest.raises(RealmMismatch):
            await one.transport.link_to(three.contact)
        with pytest.raises(TrustError):
            await one.transport.link_to(one.contact)
        with pytest.raises(OwnIdentity):
            await one.transport.dial_endpoint(one.contact.endpoint)
        await trio.sleep(0.1)
        assert one.opened() == two.opened() == three.opened() == 0
        assert sum(event.name == "link.refused" for event in two.events) == 2


async def test_who_dials_while_a_dial_is_under_way_shares_it(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        links: list[Link] = []

        async def want() -> None:
            links.append(await one.transport.link_to(two.contact))

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def give_up() -> None:
                with first:
                    await want()

            nursery.start_soon(give_up)
            await trio.sleep(LATENCY_S / 2)
            nursery.start_soon(want)
            nursery.start_soon(want)
            await trio.sleep(LATENCY_S / 2)
            first.cancel()
        assert len(links) == 2
        assert links[0] is links[1]
        await trio.sleep(0.1)
        assert one.opened() == two.opened() == 1


async def test_everybody_who_waits_is_told_by_an_error_of_its_own(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one:
        errors: list[PeerUnavailable] = []

        async def want() -> None:
            try:
                await one.transport.dial_endpoint(NOBODY)
            except PeerUnavailable as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(want)
        assert len({id(error) for error in errors}) == 3


async def test_two_that_dial_each_other_prefer_the_same_link(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.transport.link_to, two.contact)
            nursery.start_soon(two.transport.link_to, one.contact)
        await trio.sleep(0.1)
        assert one.opened() == two.opened() == 2
        arrived: dict[NodeId, list[Link]] = {one.node_id: [], two.node_id: []}
        ends: dict[NodeId, Link] = {}
        for party, other in ((one, two), (two, one)):
            party.transport.handle(wire.Cast, lambda link, _cast, at=party.node_id: arrived[at].append(link))
            link = party.transport.live_link(other.node_id)
            assert link is not None
            ends[party.node_id] = link
            link.send_nowait(large(1))
        await trio.sleep(0.1)
        assert arrived == {node_id: [link] for node_id, link in ends.items()}, "each got it on the one that it prefers"


async def test_what_is_sent_arrives_once_and_in_order(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        sizes = [1, 100_000, 2, 3000, 0, 50_000, 7]
        arrived: list[int] = []
        two.transport.handle(wire.Cast, lambda _link, cast: arrived.append(len(cast.args)))
        link = await one.transport.link_to(two.contact)
        for size in sizes:
            link.send_nowait(large(size))
        await trio.sleep(5)
        assert arrived == sizes


async def test_what_does_not_fit_into_a_frame_is_refused_and_harms_nothing(
    network: Network, autojump_clock: Clock
) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        link = await one.transport.link_to(two.contact)
        with pytest.raises(PayloadTooLarge):
            link.send_nowait(large(MAX_PAYLOAD))
        await link.ask(wire.Ping(timestamp=1), wire.Pong)


async def test_an_answer_of_another_type_is_an_error_of_the_peer(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        two.transport.handle(wire.FindNode, answer)
        link = await one.transport.link_to(two.contact)
        with pytest.raises(RemoteProtocolError):
            await link.ask(question(), wire.StoreReply)


async def test_the_end_of_a_link_is_told_to_everybody_once(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        two.transport.handle(wire.FindNode, lambda _link, _query: None)
        link = await one.transport.link_to(two.contact)
        calls: list[str] = []

        def forgotten() -> None:
            calls.append("forgotten")

        link.add_close_callback(lambda: calls.append("first"))
        link.add_close_callback(forgotten)
        link.add_close_callback(lambda: calls.append("second"))
        link.remove_close_callback(forgotten)
        link.remove_close_callback(forgotten)

        async def ask() -> None:
            with pytest.raises(PeerUnavailable) as caught:
                await link.ask(question(), wire.FindNodeReply)
            assert not isinstance(caught.value, NotSent)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            assert calls == []
            two.leave()
        assert calls == ["first", "second"]
        assert link.is_closed
        assert link.peer_is_leaving
        assert one.transport.live_link(two.node_id) is None
        assert two.transport.live_link(one.node_id) is None
        link.add_close_callback(lambda: calls.append("late"))
        assert calls == ["first", "second", "late"]
        with pytest.raises(NotSent):
            link.send_nowait(large(1))
        with pytest.raises(NotSent):
            await link.ask(question(), wire.FindNodeReply)
        await link.wait_writable()
        assert [event.name for event in one.events].count("link.closed") == 1


async def test_who_leaves_itself_is_not_told_that_the_peer_does(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        link = await one.transport.link_to(two.contact)
        one.leave()
        await trio.sleep(0.1)
        assert link.is_closed
        assert not link.peer_is_leaving


async def test_an_answer_that_cannot_be_sent_ends_the_link_and_not_the_node(
    network: Network, autojump_clock: Clock
) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        two.transport.handle(wire.FindNode, lambda link, _query: link.send_nowait(large(MAX_PAYLOAD)))
        link = await one.transport.link_to(two.contact)
        with pytest.raises(PeerUnavailable):
            await link.ask(question(), wire.FindNodeReply)
        assert link.is_closed
        assert not link.peer_is_leaving, "it ends this link, not its time in the mesh"
        assert await one.transport.link_to(two.contact) is not link


async def test_surplus_links_end_and_nobody_takes_that_for_a_goodbye(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        links = [await one.transport.dial_endpoint(two.contact.endpoint) for _ in range(LINKS_PER_PEER_MAX + 3)]
        await trio.sleep(1)
        assert one.live() == (1 if one.keeps_links else LINKS_PER_PEER_MAX)
        assert not any(link.peer_is_leaving for link in links)
        preferred = two.transport.live_link(one.node_id)
        assert preferred is not None
        await preferred.ask(wire.Ping(timestamp=1), wire.Pong)


async def test_a_dead_peer_is_noticed_by_its_silence(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two, opens(3) as three:
        two.transport.handle(wire.FindNode, lambda _link, _query: None)
        waiting, idle = await one.transport.link_to(two.contact), await one.transport.link_to(three.contact)
        died_at = trio.current_time()
        two.die()
        three.die()
        with pytest.raises(PeerUnavailable):
            await waiting.ask(question(), wire.FindNodeReply)
        soonest, latest, idle_until = (12.4, 12.6, 12.4) if one.keeps_links else (20, 30, 29.9)
        assert soonest <= trio.current_time() - died_at <= latest, "asked for a sign of life in vain"
        if not one.keeps_links:
            assert not idle.is_closed
            await trio.sleep_until(died_at + idle_until)
            assert not idle.is_closed
        await trio.sleep(1)
        assert idle.is_closed
        assert not idle.peer_is_leaving
        with pytest.raises(PeerUnavailable):
            await one.transport.link_to(two.contact)


async def test_a_link_that_something_depends_on_lives_on_in_silence(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two, opens(3) as three:
        # As whoever takes its time with an answer does.
        two.transport.handle(wire.FindNode, lambda link, _query: link.add_close_callback(lambda: None))
        needed, idle = await one.transport.link_to(two.contact), await one.transport.link_to(three.contact)
        with trio.move_on_after(400):
            await needed.ask(question(), wire.FindNodeReply)
        assert not needed.is_closed
        assert idle.is_closed


async def test_a_new_run_of_a_peer_ends_the_links_of_the_old_one(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2, instance=b"a" * 16) as two:
        old = await one.transport.link_to(two.contact)
        two.die()
        async with opens(3, identity=2, instance=b"b" * 16) as again:
            await again.transport.link_to(one.contact)
            await trio.sleep(0.1)
            assert old.is_closed
            new = one.transport.live_link(two.node_id)
            assert new is not None
            assert new.endpoint == again.contact.endpoint


async def test_who_can_wait_waits_while_much_is_under_way(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        arrived: list[int] = []
        two.transport.handle(wire.Cast, lambda _link, cast: arrived.append(len(cast.args)))
        link = await one.transport.link_to(two.contact)
        started = trio.current_time()
        await link.wait_writable()
        assert trio.current_time() == started
        for _ in range(5):
            link.send_nowait(large(WINDOW_BYTES // 4))
        await link.wait_writable()
        assert trio.current_time() > started
        assert arrived
        await trio.sleep(5)
        assert len(arrived) == 5


async def test_a_peer_that_takes_nothing_is_given_up(network: Network, autojump_clock: Clock) -> None:
    async with network as opens, opens(1) as one, opens(2) as two:
        link = await one.transport.link_to(two.contact)
        two.die()
        sent = 0
        while not link.is_closed:
            link.send_nowait(large(WINDOW_BYTES - 100))
            sent += WINDOW_BYTES
        assert abs(sent - BACKLOG_BYTES_MAX) <= WINDOW_BYTES
        with pytest.raises(NotSent):
            link.send_nowait(large(1))
