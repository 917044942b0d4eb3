"""Who dials, and which of several links to one peer is used."""

from __future__ import annotations

import pytest
import trio
from quic_tools import Peer, credentials, host, leftovers, open_peer

from macula_trio._ids import Contact, NodeId
from macula_trio._peer import dialer as dialer_module
from macula_trio._peer import registry as registry_module
from macula_trio._peer.backoff import BASE_S
from macula_trio._peer.link import QuicLink
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio.errors import MeshError, NotSent, PeerUnavailable, TrustError
from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock
NOBODY = Contact(node_id=credentials(9).node_id, endpoint=format_endpoint(host(9)))


async def test_tasks_that_want_one_node_share_one_dial_and_outlive_each_other(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        links: list[QuicLink] = []

        async def want() -> None:
            links.append(await one.registry.link_to(two.contact))

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def give_up() -> None:
                with first:
                    await want()

            nursery.start_soon(give_up)
            await trio.sleep(0.0005)  # virtual: the dial has begun
            nursery.start_soon(want)
            nursery.start_soon(want)
            await trio.sleep(0.0005)
            first.cancel()
        assert len(links) == 2
        assert links[0] is links[1]
        assert one.endpoint.counters.connections_dialed == 1


async def test_a_peer_that_is_down_is_told_to_everybody_who_waits_and_never_hangs(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, dial_deadline_s=2) as one:
        errors: list[MeshError] = []

        async def want() -> None:
            try:
                await one.registry.link_to(NOBODY)
            except PeerUnavailable as exc:
                errors.append(exc)

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(want)
        assert trio.current_time() - started == pytest.approx(2, abs=0.01)
        assert len({id(error) for error in errors}) == 3, "each has an exception of its own"
        assert one.endpoint.counters.connections_dialed == 1
        await trio.sleep(5)
        assert leftovers(one.endpoint) == {}, "the connection did not wait for its idle time-out"


async def test_a_peer_that_is_down_fails_at_once_until_its_pause_is_over(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, dial_deadline_s=1) as one:
        pauses: list[float] = []
        for attempt in range(1, 8):
            with pytest.raises(PeerUnavailable, match="nobody answered"):
                await one.registry.link_to(NOBODY)
            assert one.endpoint.counters.connections_dialed == one.registry.dial_counters.failed == attempt
            pauses.append(one.registry._pause_s(NOBODY))
            started = trio.current_time()
            for _ in range(10):
                with pytest.raises(PeerUnavailable, match=r"nobody answered .*; not dialed again for"):
                    await one.registry.link_to(NOBODY)
            assert trio.current_time() == started, "no wait"
            assert one.endpoint.counters.connections_dialed == attempt, "and no dial"
            assert one.registry.dial_counters.avoided == 10 * attempt
            await trio.sleep(pauses[-1])
        assert all(pause <= BASE_S * 2**number for number, pause in enumerate(pauses)), "full jitter"
        assert sum(pauses) > BASE_S * 2**4, "they grow"


async def test_what_our_own_configuration_names_is_tried_all_the_same(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, dial_deadline_s=1) as one:
        for attempt in range(1, 4):
            with pytest.raises(PeerUnavailable):
                await one.registry.dial_endpoint(NOBODY.endpoint, trusted=True)
            assert one.endpoint.counters.connections_dialed == attempt


async def test_a_peer_that_comes_by_itself_is_down_no_more(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, dial_deadline_s=1) as one:
        for _ in range(5):
            with pytest.raises(PeerUnavailable):
                await one.registry.dial_endpoint(NOBODY.endpoint, trusted=True)
        async with open_peer(network, 9) as late:
            await late.registry.link_to(one.contact)
            await trio.sleep(0.1)
            assert one.registry._pause_s(NOBODY) == 0
            assert (await one.registry.link_to(NOBODY)).node_id == late.node_id


async def test_who_names_wrong_nodes_for_an_endpoint_keeps_nobody_from_the_right_one(autojump_clock: Clock) -> None:
    network, liars = SimNetwork(), range(10, 14)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        for liar in liars:
            lie = Contact(node_id=credentials(liar).node_id, endpoint=two.contact.endpoint)
            for _ in range(4):
                with pytest.raises(TrustError):
                    await one.registry.link_to(lie)
        assert one.endpoint.counters.connections_dialed == len(liars), "one lie is not tried again at once"
        assert (await one.registry.link_to(two.contact)).node_id == two.node_id


async def test_two_wishes_for_one_address_do_not_share_a_dial(autojump_clock: Clock) -> None:
    """Else who makes us ask for a wrong node there fails those who join by that address meanwhile."""
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        outcomes: dict[str, object] = {}

        async def want(name: str, expected: NodeId | None) -> None:
            try:
                link = await one.registry.dial_endpoint(two.contact.endpoint, expected=expected)
            except TrustError:
                outcomes[name] = TrustError
            else:
                outcomes[name] = link.node_id

        async with trio.open_nursery() as nursery:
            nursery.start_soon(want, "wrong", credentials(3).node_id)
            nursery.start_soon(want, "anybody", None)
            nursery.start_soon(want, "right", two.node_id)
        assert outcomes == {"wrong": TrustError, "anybody": two.node_id, "right": two.node_id}


async def ping(link: QuicLink, number: int) -> None:
    await link.ask(wire.Ping(timestamp=number), wire.Pong)


async def test_two_that_dial_each_other_prefer_the_same_connection_and_serve_both(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        dialed: dict[str, QuicLink] = {}

        async def dial(name: str, source: Peer, target: Peer) -> None:
            dialed[name] = await source.registry.dial_endpoint(target.contact.endpoint, expected=target.node_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, "by one", one, two)
            nursery.start_soon(dial, "by two", two, one)
        await trio.sleep(0.5)
        lower, higher = sorted((one, two), key=lambda peer: peer.node_id)
        at_lower, at_higher = lower.registry.live_link(higher.node_id), higher.registry.live_link(lower.node_id)
        assert at_lower is not None
        assert at_higher is not None
        assert at_lower.is_dialed
        assert not at_higher.is_dialed
        for number, link in enumerate(dialed.values()):
            await ping(link, number)  # also on the one that was not kept: its place was taken
        assert one.registry.links == [one.registry.live_link(two.node_id)]
        assert two.registry.links == [two.registry.live_link(one.node_id)]
        assert one.endpoint.connections == two.endpoint.connections == 1


async def test_a_new_run_of_a_peer_ends_the_links_of_the_old_one(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    async with open_peer(network, 1) as one, open_peer(network, 2, instance=b"a" * 16) as two:
        await two.registry.link_to(one.contact)
        assert [link.instance for link in one.registry.links] == [b"a" * 16]
        gone.append(host(2))  # it dies without a word
        async with open_peer(network, 3, identity=2, instance=b"b" * 16) as again:
            await again.registry.link_to(one.contact)
            await trio.sleep(0.1)
            assert [link.instance for link in one.registry.links] == [b"b" * 16]


async def test_a_peer_has_a_bounded_number_of_links(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        for _ in range(3 * registry_module.LINKS_PER_PEER_MAX):
            await two.registry.dial_endpoint(one.contact.endpoint)
        await trio.sleep(0.1)
        assert len(one.registry.links) <= registry_module.LINKS_PER_PEER_MAX
        await trio.sleep(1)
        assert len(one.registry.links) == len(two.registry.links) == 1
        preferred = two.registry.live_link(one.node_id)
        assert preferred is not None
        await ping(preferred, 1)


async def test_a_node_does_not_dial_itself_or_a_name(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one:
        with pytest.raises(TrustError):
            await one.registry.link_to(one.contact)
        with pytest.raises(PeerUnavailable):
            await one.registry.link_to(Contact(node_id=NOBODY.node_id, endpoint="victim.example:53"))
        assert one.endpoint.counters.connections_dialed == 0


async def test_dials_beyond_the_limit_wait_and_beyond_the_waiting_are_not_made(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "DIALS_MAX", 2)
    monkeypatch.setattr(dialer_module, "DIALS_WAITING_MAX", 4)
    network = SimNetwork()
    outcomes: list[type[MeshError]] = []
    async with open_peer(network, 1, dial_deadline_s=1) as one:

        async def want(number: int) -> None:
            try:
                await one.registry.dial_endpoint(format_endpoint(host(100 + number)))
            except PeerUnavailable as exc:
                outcomes.append(type(exc))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(want, number)
            await trio.sleep(0.5)
            assert one.endpoint.counters.connections_dialed == 2
        assert outcomes.count(NotSent) == 2
        assert outcomes.count(PeerUnavailable) == 4
