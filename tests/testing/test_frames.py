"""Frames on a network with faults: what reaches a link, and how late; what both have in common is in tests/peer."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from frame_tools import FramePeer, frame_peer, served
from quic_tools import credentials

from macula_trio._ids import Contact
from macula_trio._wire import messages as wire
from macula_trio.errors import NotSent, PeerUnavailable
from macula_trio.testing._frame_streams import HELD_PACKETS_MAX, RESENDS_MAX
from macula_trio.testing.frames import FrameLink, FrameNetwork
from macula_trio.testing.network import LinkModel

Clock = trio.testing.MockClock
IDLE_S = 30.0  # three times the keepalive interval
BOTH = ("h1", "h2")


def cast(number: int, size: int = 0) -> wire.Cast:
    return wire.Cast(procedure=f"n.{number}", args=bytes(size))


def collect(peer: FramePeer) -> list[tuple[int, float]]:
    """The numbers of the casts that come to a peer, and when."""
    arrived: list[tuple[int, float]] = []

    def note(_link: object, message: wire.Cast) -> None:
        arrived.append((int(message.procedure[2:]), trio.current_time()))

    peer.transport.handle(wire.Cast, note)
    return arrived


def numbers(arrived: list[tuple[int, float]]) -> list[int]:
    return [number for number, _ in arrived]


async def linked(network: FrameNetwork, **changes: Any) -> tuple[FramePeer, FramePeer, FrameLink]:
    one, two = frame_peer(network, 1, **changes), frame_peer(network, 2, **changes)
    return one, two, await one.transport.link_to(two.contact)


async def ping(link: FrameLink, number: int = 1) -> None:
    await link.ask(wire.Ping(timestamp=number), wire.Pong)


# -- loss is delay -------------------------------------------------------------------------------------------------


async def test_what_is_lost_comes_twice_or_overtakes_comes_once_and_in_order(autojump_clock: Clock) -> None:
    model = LinkModel(latency_s=0.01, jitter_s=0.02, loss=0.3, duplication=0.3, reordering=0.3)
    async with served(FrameNetwork(seed=5, link=model)) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        for number in range(300):
            link.send_nowait(cast(number, size=number % 7 * 900))
        await trio.sleep(20)
        assert numbers(arrived) == list(range(300))
        statistics = network.statistics()
        assert statistics.lost["chance"] == statistics.resent > 100
        assert not link.is_closed


async def test_one_lost_packet_holds_up_what_follows_it_for_a_probe_time_out(autojump_clock: Clock) -> None:
    async with served(FrameNetwork(link=LinkModel(latency_s=0.05))) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        started = trio.current_time()
        network.partition(["h1"])
        link.send_nowait(cast(0))
        network.heal()
        link.send_nowait(cast(1))
        await trio.sleep(1)
        # One round trip and the peer's leave to wait with its acknowledgement, then the way there.
        assert [(number, when - started) for number, when in arrived] == [
            (0, pytest.approx(0.1 + 0.025 + 0.05)),
            (1, pytest.approx(0.1 + 0.025 + 0.05)),
        ]


async def test_a_dial_gets_through_losses(autojump_clock: Clock) -> None:
    async with served(FrameNetwork(seed=1, link=LinkModel(loss=0.5))) as network:
        one = frame_peer(network, 1)
        for number in range(2, 22):
            await one.transport.link_to(frame_peer(network, number).contact)
        assert network.statistics().resent > 20


async def test_a_narrow_path_delivers_everything_at_its_rate(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        network.set_link(LinkModel(bandwidth_bytes_per_s=100_000, queue_bytes_max=50_000), "h1", "h2")
        started = trio.current_time()
        for number in range(10):
            link.send_nowait(cast(number, size=50_000))
        await trio.sleep(60)
        assert numbers(arrived) == list(range(10))
        assert network.statistics().lost["queue"] > 0
        assert 5 <= arrived[-1][1] - started <= 20


async def test_a_packet_that_never_gets_through_ends_the_link_though_the_peer_is_heard(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two, link = await linked(network)
        network.set_link(LinkModel(mtu_bytes=1000), "h1", "h2")
        arrived = collect(one)
        link.send_nowait(cast(0, size=3000))
        back = two.transport.live_link(one.node_id)
        assert back is not None
        number = 0
        while not link.is_closed:
            back.send_nowait(cast(number))
            number += 1
            await trio.sleep(1)
        assert 100 <= len(arrived) <= 130  # seconds: 64 tries, 1.7 s apart in the end
        assert "lost too often" in str(link.error)
        assert (
            network.statistics().lost["mtu"] == 2 * (RESENDS_MAX + 1) or network.statistics().lost["mtu"] > RESENDS_MAX
        )


# -- partitions -----------------------------------------------------------------------------------------------------


async def test_a_partition_stalls_a_link_until_it_heals(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        network.partition(["h1"], ["h2"])
        for number in range(5):
            link.send_nowait(cast(number))
        await trio.sleep(20)
        assert arrived == []
        network.heal()
        healed_at = trio.current_time()
        await ping(link)
        assert numbers(arrived) == list(range(5))
        assert trio.current_time() - healed_at < 2, "tried again soon enough"


async def test_a_partition_that_lasts_ends_a_link_silently_on_both_sides(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two, link = await linked(network)
        back = two.transport.live_link(one.node_id)
        assert back is not None
        ends: dict[str, float] = {}
        link.add_close_callback(lambda: ends.setdefault("one", trio.current_time()))
        back.add_close_callback(lambda: ends.setdefault("two", trio.current_time()))
        cut_at = trio.current_time()
        network.partition(["h1"])
        link.send_nowait(cast(0))
        await trio.sleep(60)
        assert {name: 20 <= at - cut_at <= IDLE_S for name, at in ends.items()} == {"one": True, "two": True}
        assert not link.peer_is_leaving
        assert not back.peer_is_leaving
        assert one.transport.links == two.transport.links == []


async def test_dialing_over_a_partition_fails_at_the_deadline(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two = frame_peer(network, 1, dial_deadline_s=3), frame_peer(network, 2)
        network.partition(["h2"], one_way=True)  # it gets everything, and its answers are lost
        with pytest.raises(PeerUnavailable):
            await one.transport.link_to(two.contact)
        assert trio.current_time() == pytest.approx(3)
        network.heal()
        await ping(await one.transport.link_to(two.contact))


async def test_who_is_not_heard_ends_the_link_though_it_hears(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two, link = await linked(network)
        arrived = collect(two)
        network.partition(["h2"], ["h1"], one_way=True)
        for number in range(40):
            if not link.is_closed:
                link.send_nowait(cast(number))
            await trio.sleep(1.1)
        assert numbers(arrived) == list(range(28)), "until it had heard nothing for the idle time"
        assert link.is_closed
        assert one.transport.links == []


# -- clogs ------------------------------------------------------------------------------------------------------------


async def test_a_clogged_host_gets_everything_later_and_in_order(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        network.clog("h2")
        for number in range(10):
            link.send_nowait(cast(number, size=number * 500))
        await trio.sleep(15)
        assert arrived == []
        network.unclog("h2")
        await ping(link)
        assert numbers(arrived) == list(range(10))
        assert network.statistics().resent == 0
        assert network.statistics().held > 10


async def test_two_clogged_hosts_must_both_be_freed(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        network.clog(*BOTH)
        link.send_nowait(cast(0))
        network.unclog("h1")
        await trio.sleep(1)
        assert arrived == []
        network.unclog("h2")
        await trio.sleep(1)
        assert numbers(arrived) == [0]


async def test_what_is_held_is_bounded_and_the_rest_is_sent_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HELD_PACKETS_MAX > 10
    monkeypatch.setattr("macula_trio.testing._frame_streams.HELD_PACKETS_MAX", 10)
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        arrived = collect(two)
        network.clog("h2")
        for number in range(15):
            link.send_nowait(cast(number))
        network.unclog("h2")
        await trio.sleep(1)
        assert numbers(arrived) == list(range(15))
        assert network.statistics().lost["clog"] == 5


# -- hosts ---------------------------------------------------------------------------------------------------------


async def test_a_crashed_node_says_nothing_and_its_host_may_be_used_again(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two, link = await linked(network)
        arrived = collect(one)
        back = two.transport.live_link(one.node_id)
        assert back is not None
        two.transport.crash()
        back.send_nowait(cast(1))
        with trio.move_on_after(5) as scope:
            await ping(link)
        assert scope.cancelled_caught
        again = frame_peer(network, 2, instance=b"again" + bytes(11))
        await again.transport.link_to(one.contact)
        await trio.sleep(0.1)
        assert arrived == []
        assert link.is_closed
        assert one.transport.live_link(again.node_id) is not None


async def test_who_waits_in_a_crashed_node_waits_on(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one, two, link = await linked(network)
        network.partition(["h1"])
        with trio.move_on_after(3600) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ping, link)
                nursery.start_soon(one.transport.dial_endpoint, two.contact.endpoint)
                await trio.sleep(0.1)
                one.transport.crash()
        assert scope.cancelled_caught
        with pytest.raises(NotSent):
            await one.transport.link_to(Contact(node_id=credentials(9).node_id, endpoint="10.0.0.1:1"))


async def test_a_node_that_comes_up_before_the_deadline_is_reached(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one = frame_peer(network, 1)
        async with trio.open_nursery() as nursery:
            contact = Contact(node_id=credentials(2).node_id, endpoint=network.endpoint_of("h2"))
            nursery.start_soon(one.transport.link_to, contact)
            await trio.sleep(3)
            two = frame_peer(network, 2)
        assert trio.current_time() < 5
        assert one.transport.live_link(two.node_id) is not None


async def test_a_host_carries_one_node(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        one = frame_peer(network, 1)
        with pytest.raises(OSError, match="in use"):
            frame_peer(network, 1)
        one.transport.leave()
        assert frame_peer(network, 1).contact == one.contact


async def test_faults_are_told(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        told: list[str] = []
        one = frame_peer(network, 1)

        def listener(fault: str, _facts: object) -> None:
            told.append(fault)

        network.listen(listener)
        network.set_link(LinkModel(loss=0.5), "h1")
        network.partition(["h1"])
        network.heal()
        network.heal()
        network.clog("h1")
        network.unclog("h1")
        one.transport.crash()
        one.transport.crash()
        network.unlisten(listener)
        network.clog("h1")
        assert told == ["fault.link", "fault.partition", "fault.heal", "fault.clog", "fault.unclog", "fault.crash"]
        with pytest.raises(ValueError, match="list"):
            network.partition("h1")


# -- questions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.0015, 0.002, 0.0025])
async def test_a_question_that_is_cancelled_leaves_nothing(after_s: float, autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, _two, link = await linked(network)
        for number in range(20):
            with trio.move_on_after(after_s) as scope:
                await ping(link, number)
            assert scope.cancelled_caught == (after_s < 0.002) or after_s == 0.002
            assert link._pending == {}
        await trio.sleep(1)
        await ping(link, 5)
        assert link._pending == {}


async def test_a_question_in_a_cancelled_scope_is_not_asked(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, _two, link = await linked(network)
        frames = network.statistics().frames
        with trio.CancelScope() as scope:
            scope.cancel()
            await ping(link)
        assert network.statistics().frames == frames


async def test_late_answers_and_messages_for_nobody_are_counted(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, two, link = await linked(network)
        with trio.move_on_after(0.001):
            await ping(link)
        link.send_nowait(cast(1))
        await trio.sleep(1)
        assert link._context.unexpected == 1
        assert two.transport.links[0]._context.unhandled == 1


async def test_everything_that_is_sent_has_its_size(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        _one, _two, link = await linked(network)
        before = network.statistics()
        link.send_nowait(cast(1, size=10_000))
        after = network.statistics()
        assert after.frames - before.frames == 1
        assert after.frame_bytes - before.frame_bytes == 8 + 1 + (1 + 4 + 3 + 10_000) + (1 + 11 + 2 + 3)
        assert after.packets - before.packets == 8
