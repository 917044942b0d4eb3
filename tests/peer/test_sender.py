"""Fire and forget: every message is sent, or fails, or is dropped, and is told; nothing that it needed is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs
import pytest
import trio
from cancel_tools import CancelAtStep
from old_tools import OldNode
from quic_tools import REALM, Peer, host, leftovers, open_endpoint, open_peer
from sender_tools import noting, open_scene

from macula_trio._ids import Contact, NodeId
from macula_trio._net.quic import CloseReason, Connection, ConnectionHandler
from macula_trio._peer.asks import ASKS_MAX
from macula_trio._peer.linger import LINGER_S
from macula_trio._peer.link import UNVERIFIED_STREAMS_MAX, QuicLink
from macula_trio._peer.sender import CONNECTIONS_MAX, ROOM_DEADLINE_S
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.abc import Link
from macula_trio.errors import ErrorCode, PeerUnavailable, RealmMismatch, TrustError
from macula_trio.testing import LinkModel, SimNetwork

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
NOBODY: Final = Contact(node_id=NodeId(bytes(32)), endpoint=format_endpoint(host(99)))


# -- with a link ------------------------------------------------------------------------------------------------------


async def test_a_live_link_is_used(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        link = await scene.peer.registry.link_to(other.contact)
        for number in range(100):
            await scene.send(other.contact, number)
        await trio.sleep(0.1)
        assert got == list(range(100)), "in order"
        assert scene.balance() == (100, {}, {})
        assert scene.peer.endpoint.counters.connections_dialed == 1
        assert not link.is_closed


async def test_what_waits_for_room_on_a_link_that_ends_goes_another_way(autojump_clock: Clock) -> None:
    held = True
    network = SimNetwork(tap=lambda _source, _target, data: None if held and link is not None else data)
    link: QuicLink | None = None
    async with open_scene(network) as scene, open_peer(network, 2) as other, trio.open_nursery() as nursery:
        got = noting(other)
        link = await scene.peer.registry.link_to(other.contact)
        await scene.send(other.contact, 1, 900_000)
        await scene.send(other.contact, 2, 900_000)
        nursery.start_soon(scene.send, other.contact, 3)
        await trio.sleep(1)
        assert scene.sender.sent == 2, "it waits"
        held = False
        link.close()
        await trio.sleep(1)
        assert 3 in got
        assert scene.balance() == (3, {}, {})


async def test_a_node_that_keeps_no_links_uses_none(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_scene(network, uses_links=False) as scene, open_peer(network, 2) as other:
        got = noting(other)
        link = await scene.peer.registry.link_to(other.contact)
        await scene.send(other.contact, 7)
        assert (got, scene.peer.endpoint.counters.connections_dialed) == ([7], 2)
        assert not link.is_closed


# -- without one ------------------------------------------------------------------------------------------------------


async def test_without_a_link_the_connection_ends_when_the_message_was_read_and_is_nobodys_link(
    autojump_clock: Clock,
) -> None:
    network = SimNetwork(latency_s=0.01)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got: list[tuple[object, object]] = []

        def note(_link: Link, _message: wire.Cast) -> None:
            ours, theirs = scene.peer.registry, other.registry
            got.append((ours.live_link(other.node_id), theirs.live_link(scene.peer.node_id)))

        other.registry.handle(wire.Cast, note)
        started = trio.current_time()
        await scene.send(other.contact)
        assert trio.current_time() - started < 0.1, "cut short"
        assert got == [(None, None)], "arrived, and neither side begins anything else on it"
        assert scene.peer.registry.links == []
        assert scene.balance() == (1, {}, {})
        assert scene.confirmations.missing == 0
        await scene.ended()
        assert leftovers(other.endpoint) == {}


async def test_many_at_once_to_one_peer_share_a_connection(autojump_clock: Clock) -> None:
    network = SimNetwork()
    count = ASKS_MAX + 200  # more than a link may have unanswered
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(scene.send, other.contact, number)
        assert sorted(got) == list(range(count))
        assert scene.balance() == (count, {}, {})
        assert scene.confirmations.missing == 0
        assert scene.peer.endpoint.counters.connections_dialed == 1
        await scene.ended()


async def test_who_dialed_may_be_cancelled_and_the_others_lose_nothing(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.01)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        async with trio.open_nursery() as nursery:
            cancelled = trio.CancelScope()

            async def first() -> None:
                with cancelled:
                    await scene.send(other.contact, 0)

            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            for number in (1, 2, 3):
                nursery.start_soon(scene.send, other.contact, number)
            await trio.sleep(0.015)  # TLS is under way
            cancelled.cancel()
        assert sorted(got) == [1, 2, 3]
        assert scene.balance() == (3, {}, {"cancelled": 1})
        assert [event.facts["reason"] for event in scene.peer.named("message.dropped")] == ["cancelled"]
        await scene.ended()


async def test_a_burst_over_a_long_way_takes_turns_and_all_of_it_is_confirmed(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.03)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(scene.send, other.contact, number)
        assert sorted(got) == list(range(1000))
        assert scene.confirmations.missing == 0
        assert scene.balance() == (1000, {}, {})
        assert scene.peer.endpoint.counters.connections_dialed == 1


@pytest.mark.parametrize("dialer", ["the one who is cancelled", "the other one"])
async def test_cancelled_at_any_step_it_leaves_nothing_and_the_other_who_shares_loses_nothing(
    dialer: str, autojump_clock: Clock
) -> None:
    network = SimNetwork(latency_s=0.01)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        step = 0
        was_cancelled, outcomes = True, set[tuple[int, int]]()
        while was_cancelled:
            step += 1
            knife = CancelAtStep(step)
            sent, missing = scene.sender.sent, scene.confirmations.missing

            async def under_the_knife(knife: CancelAtStep = knife) -> None:
                with knife.scope:
                    await scene.send(other.contact, 0)

            async with trio.open_nursery() as nursery:
                if dialer == "the other one":
                    nursery.start_soon(scene.send, other.contact, step)
                    await trio.testing.wait_all_tasks_blocked()
                trio.lowlevel.add_instrument(knife)
                knife.armed = True
                nursery.start_soon(under_the_knife)
                if dialer == "the one who is cancelled":
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(scene.send, other.contact, step)
            trio.lowlevel.remove_instrument(knife)
            was_cancelled = knife.scope.cancelled_caught
            outcomes.add((scene.sender.sent - sent, scene.confirmations.missing - missing))
            await scene.ended()
            assert leftovers(other.endpoint) == {}
        assert step > 20
        assert sorted(number for number in got if number) == list(range(1, step + 1))
        assert scene.balance()[1] == {}
        assert outcomes == {(1, 0), (2, 1), (2, 0)}, "before the frame was written, behind it, and not at all"


async def test_who_is_cancelled_behind_the_frame_has_sent_it_and_does_not_know_more(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.04)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        with trio.CancelScope() as scope:
            other.registry.on_opened(lambda _link: scene.peer.nursery.start_soon(later))

            async def later() -> None:
                await trio.sleep(0.045)
                scope.cancel()

            await scene.send(other.contact, 1)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert got == [1], "what was written leaves before the close"
        assert scene.balance() == (1, {}, {})
        assert [event.facts["reason"] for event in scene.peer.named("message.unconfirmed")] == [
            "nobody waited for the answer"
        ]
        await scene.ended()


async def test_a_link_that_somebody_else_opens_meanwhile_stays(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.01)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        links: list[QuicLink] = []

        async def link(one: Peer, target: Peer) -> None:
            links.append(await one.registry.link_to(target.contact))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(scene.send, other.contact, number)
                if number == 10:
                    nursery.start_soon(link, scene.peer, other)
                    nursery.start_soon(link, other, scene.peer)
                await trio.sleep(0.004)
        await trio.sleep(1)
        assert sorted(got) == list(range(20))
        assert [one.is_closed or one.is_passing for one in links] == [False, False]
        assert {scene.peer.registry.live_link(other.node_id), other.registry.live_link(scene.peer.node_id)} <= {
            *links,
            *scene.peer.registry.links,
            *other.registry.links,
        }
        assert scene.balance() == (20, {}, {})


async def test_an_answer_that_is_late_is_told_and_no_error(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.6 * LINGER_S)
    async with open_scene(network) as scene, open_peer(network, 2) as other:
        got = noting(other)
        await scene.send(other.contact, 1)
        await trio.sleep(1)
        assert got == [1]
        assert scene.balance() == (1, {}, {})
        assert scene.confirmations.missing == 1
        assert scene.peer.named("message.unconfirmed")[0].facts == {
            "peer": other.node_id.hex(),
            "reason": "no answer in time",
        }


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_all_who_wait_for_a_dead_peer_fail_by_one_dial(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_scene(network, dial_deadline_s=2.0) as scene, trio.open_nursery() as nursery:
        failures: list[PeerUnavailable] = []

        async def fail() -> None:
            with pytest.raises(PeerUnavailable, match=r"10\.7\.0\.99:9443") as caught:
                await scene.send(NOBODY)
            failures.append(caught.value)

        started = trio.current_time()
        for _ in range(50):
            nursery.start_soon(fail)
        await trio.sleep(2.05)
        assert len({id(failure) for failure in failures}) == 50, "a traceback of its own for each"
        assert trio.current_time() - started < 3
        assert scene.balance() == (0, {"unreachable": 50}, {})
        assert scene.peer.endpoint.counters.connections_dialed == 1
        await scene.ended()


async def test_who_is_refused_is_told_why(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_scene(network) as scene, open_peer(network, 2, realm="org.other") as other:
        with pytest.raises(RealmMismatch):
            await scene.send(other.contact)
        with pytest.raises(TrustError, match="itself"):
            await scene.send(scene.peer.contact)
        scene.peer.party.judge.block(other.node_id)
        with pytest.raises(TrustError, match="blocked"):
            await scene.send(other.contact)
        assert scene.balance() == (0, {"refused": 3}, {})
        assert REALM in str(scene.peer.named("message.failed")[0].facts["reason"])
        await scene.ended()


async def test_where_our_socket_does_not_reach_nothing_is_sent(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_scene(network) as scene:
        with pytest.raises(PeerUnavailable):
            await scene.send(attrs.evolve(NOBODY, endpoint="[fd00::1]:9443"))
        assert scene.balance() == (0, {}, {"not_sent": 1})
        assert len(scene.peer.named("message.dropped")) == 1
        await scene.ended()


class Deaf:
    """Between a connection and its link: hears who dials and nothing behind that."""

    def __init__(self, link: QuicLink, *, close: Callable[[], None] | None = None) -> None:
        self._link = link
        self._close = close

    def handshake_completed(self) -> None:
        self._link.handshake_completed()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        if self._link.node_id is None:
            self._link.stream_data_received(stream_id, data, end_stream)
            if self._close is not None:
                self._close()

    def stream_reset(self, stream_id: int) -> None:
        self._link.stream_reset(stream_id)

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self._link.connection_lost(reason, detail)


async def test_a_peer_that_takes_nothing_holds_nobody_for_long(autojump_clock: Clock) -> None:
    network = SimNetwork()

    def wrap(_connection: Connection, link: QuicLink) -> ConnectionHandler:
        return Deaf(link)

    async with open_scene(network) as scene, open_peer(network, 2, wrap=wrap) as other:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.send, other.contact, 1, 900_000)
            nursery.start_soon(scene.send, other.contact, 2, 900_000)
            await trio.sleep(0.05)
            with pytest.raises(PeerUnavailable, match="does not take"):
                await scene.send(other.contact, 3)
        assert trio.current_time() - started == pytest.approx(ROOM_DEADLINE_S, abs=0.3)
        assert scene.balance() == (2, {"unreachable": 1}, {})
        assert scene.confirmations.missing == 2
        await scene.ended()


async def test_a_peer_that_lets_us_in_and_goes_is_unreachable_or_unconfirmed(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.01)

    def wrap(_connection: Connection, link: QuicLink) -> ConnectionHandler:
        return Deaf(link, close=link.close)

    async with open_scene(network) as scene, open_peer(network, 2, wrap=wrap) as other:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(scene.attempt, other.contact, number)
        sent, failed, dropped = scene.balance()
        assert sent == scene.confirmations.missing
        assert sent + sum(failed.values()) == 30
        assert dropped == {}
        await scene.ended()


# -- many peers -------------------------------------------------------------------------------------------------------


async def test_connections_to_many_peers_are_bounded_and_others_can_dial_meanwhile(autojump_clock: Clock) -> None:
    network = SimNetwork()
    most = 0
    async with open_scene(network, dial_deadline_s=2.0) as scene, open_peer(network, 2) as other:
        async with trio.open_nursery() as nursery:
            for number in range(3 * CONNECTIONS_MAX):
                contact = attrs.evolve(NOBODY, endpoint=format_endpoint(host(100 + number)))
                nursery.start_soon(scene.attempt, contact, number)
            await trio.sleep(0.1)
            with trio.fail_after(0.5):
                await scene.peer.registry.link_to(other.contact)
            for _ in range(60):
                await trio.sleep(0.1)
                most = max(most, len(scene.peer.registry._dialer._dials))
        assert most == CONNECTIONS_MAX
        assert scene.balance() == (0, {"unreachable": 3 * CONNECTIONS_MAX}, {})


# -- v0.8 -------------------------------------------------------------------------------------------------------------


async def test_towards_v08_it_sleeps_100_ms_and_a_connection_takes_as_many_as_such_a_peer_reads(
    autojump_clock: Clock,
) -> None:
    class Old(OldNode):
        made: list[OldNode] = []  # noqa: RUF012

    network = SimNetwork()
    count = 2 * UNVERIFIED_STREAMS_MAX + 1
    async with open_scene(network, trust=Trust.unverified()) as scene, open_endpoint(network, 2, accept=Old):
        contact = Contact(node_id=NodeId(bytes(range(32))), endpoint=format_endpoint(host(2)))
        started = trio.current_time()
        await scene.send(contact, 0)
        assert started + LINGER_S <= trio.current_time() < started + 2 * LINGER_S
        async with trio.open_nursery() as nursery:
            for number in range(1, count):
                nursery.start_soon(scene.send, contact, number)
        casts = [body["args"] for old in Old.made for kind, body in old.frames if kind is MessageType.CAST]
        assert sorted(int(args) for args in casts) == list(range(count))
        assert len(Old.made) == 3
        assert scene.balance() == (count, {}, {})
        assert scene.confirmations.missing == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.send, contact)
            await trio.sleep(0.05)
            link = await scene.peer.registry.link_to(contact)
            assert len(Old.made) == 5, "what ends behind a message is not used for anything else"
        await scene.send(contact)
        assert len(Old.made) == 5, "and a live link is used"
        assert not link.is_closed


async def test_a_v08_peer_that_ends_the_connection_may_not_have_read_the_message(autojump_clock: Clock) -> None:
    class Old(OldNode):
        made: list[OldNode] = []  # noqa: RUF012

    network = SimNetwork()
    async with open_scene(network, trust=Trust.unverified()) as scene, open_endpoint(network, 2, accept=Old) as other:
        contact = Contact(node_id=NodeId(bytes(range(32))), endpoint=format_endpoint(host(2)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.send, contact)
            await trio.sleep(0.01)  # it takes QUIC a while to tell
            for connection in tuple(other._connections):
                connection.close(ErrorCode.NORMAL)
        assert scene.balance() == (1, {}, {})
        assert scene.confirmations.missing == 1


# -- everything at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_lost_silently(seed: int, autojump_clock: Clock) -> None:
    """Losses, dead and refusing peers, links that open and end, senders that are cancelled: the books are right."""
    chance = random.Random(seed)
    network = SimNetwork(seed=seed, link=LinkModel(loss=0.05, latency_s=0.005, jitter_s=0.005))
    async with (
        open_scene(network, dial_deadline_s=2.0, uses_links=bool(seed % 4)) as scene,
        open_peer(network, 2) as second,
        open_peer(network, 3) as third,
        open_peer(network, 4, realm="org.other") as stranger,
    ):
        got = {peer.node_id: noting(peer) for peer in (second, third)}
        contacts = [second.contact, third.contact, stranger.contact, NOBODY]

        async def send(number: int) -> None:
            await trio.sleep(chance.random())
            patience_s = 0.2 * chance.random() if chance.random() < 0.3 else 60
            with trio.move_on_after(patience_s):
                await scene.attempt(chance.choice(contacts), number)

        async def open_and_end_links() -> None:
            for _ in range(4):
                await trio.sleep(0.3 * chance.random())
                try:
                    link = await scene.peer.registry.link_to(second.contact)
                except PeerUnavailable:
                    continue
                await trio.sleep(0.2 * chance.random())
                link.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_and_end_links)
            for number in range(200):
                nursery.start_soon(send, number)
        await trio.sleep(5)
        sent, failed, dropped = scene.balance()
        arrived = [number for numbers in got.values() for number in numbers]
        assert len(set(arrived)) == len(arrived), "none twice"
        assert len(arrived) <= sent
        if not seed % 4:  # no link has ended under a message: each of those that are missing was told
            assert sent - len(arrived) <= scene.confirmations.missing
        assert sent > 20
        assert {"unreachable", "refused"} == set(failed)
        assert set(dropped) == {"cancelled"}
        await scene.ended()
