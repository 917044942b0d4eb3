"""Links whose peers get another address: the same link goes on, and says so."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from quic_tools import PATIENCE_S, Peer, host, open_peer

from macula_trio._peer.link import QuicLink
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock

MOVED = "10.8.8.8"


async def answers(link: QuicLink) -> bool:
    with trio.fail_after(PATIENCE_S):
        return await link.ask(wire.Ping(timestamp=7), wire.Pong) is not None


def only_link(peer: Peer) -> QuicLink:
    (link,) = peer.registry.links
    return link


def migrations(peer: Peer) -> list[tuple[object, object, object]]:
    facts = [event.facts for event in peer.named("link.migrated")]
    assert peer.registry.counters.migrated == len(facts)
    return [(each["peer"], each["before"], each["endpoint"]) for each in facts]


@pytest.mark.parametrize("moving", [1, 2])
async def test_a_link_goes_on_when_one_end_moves(moving: int, autojump_clock: Clock) -> None:
    """The first one has dialed the second one."""
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        near, far = await one.registry.link_to(two.contact), only_link(two)
        mover, follower = (one, two) if moving == 1 else (two, one)
        network.host(host(moving)[0]).change_address(MOVED)
        assert await answers(only_link(mover)), "what the peer that has moved says shows where it is"
        assert await answers(only_link(follower))
        assert only_link(one) is near
        assert only_link(two) is far
        assert one.endpoint.counters.connections_dialed == 1
        assert one.endpoint.connections == two.endpoint.connections == 1
        before, after = format_endpoint(host(moving)), format_endpoint((MOVED, host(moving)[1]))
        assert migrations(follower) == [(mover.node_id.hex(), before, after)]
        assert migrations(mover) == []


async def test_a_peer_that_has_moved_is_not_where_it_said_any_more(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)
        assert link.proven_endpoint == two.contact.endpoint
        network.host(host(2)[0]).change_address(MOVED)
        assert await answers(only_link(two))
        assert link.peer_address == (MOVED, host(2)[1])
        assert link.proven_endpoint is None
