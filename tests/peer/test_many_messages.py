"""Ten thousand messages over a link and a thousand without one, at once: all arrive or are counted."""

from __future__ import annotations

from typing import Final

import pytest
import trio
from quic_tools import credentials, host, open_peer
from sender_tools import noting, open_scene

from macula_trio._ids import Contact
from macula_trio._peer.sender import CONNECTIONS_MAX
from macula_trio._peer.window import WINDOW_BYTES
from macula_trio._util import format_endpoint
from macula_trio.testing import SimNetwork

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
TO_ONE: Final = 10_000
PEERS: Final = 1000
DEAD_EVERY: Final = 4
DIAL_DEADLINE_S: Final = 2.0
BYTES: Final = 1000  # so that all of them together are more than may be on its way


@pytest.mark.timeout(300)
async def test_ten_thousand_over_a_link_and_a_thousand_without_one_at_once(autojump_clock: Clock) -> None:
    network = SimNetwork()
    backlogs, connections = list[int](), list[int]()
    numbers = range(10, 10 + PEERS)
    heard: dict[int, list[int]] = {}

    async def live(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_peer(network, number) as peer:
            heard[number] = noting(peer)
            task_status.started()
            await trio.sleep_forever()

    async with (
        trio.open_nursery() as peers,
        open_scene(network, dial_deadline_s=DIAL_DEADLINE_S) as scene,
        open_peer(network, 2) as friend,
    ):
        got = noting(friend)
        link = await scene.peer.registry.link_to(friend.contact)
        for number in numbers:
            if number % DEAD_EVERY:
                await peers.start(live, number)

        async def look() -> None:
            while True:
                backlogs.append(link._sent.size)
                connections.append(max(len(scene.peer.registry.links) - 1, len(scene.peer.registry._dialer._dials)))
                await trio.sleep(0.001)

        async with trio.open_nursery() as watch:
            watch.start_soon(look)
            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(TO_ONE):
                    nursery.start_soon(scene.attempt, friend.contact, number, BYTES)
                for number in numbers:
                    contact = Contact(node_id=credentials(number).node_id, endpoint=format_endpoint(host(number)))
                    nursery.start_soon(scene.attempt, contact, number)
            took_s = trio.current_time() - started
            watch.cancel_scope.cancel()
        await trio.sleep(0.1)
        assert sorted(got) == list(range(TO_ONE))
        dead = PEERS - len(heard)
        assert heard == {number: [number] for number in numbers if number % DEAD_EVERY}
        assert scene.balance() == (TO_ONE + len(heard), {"unreachable": dead}, {})
        assert scene.confirmations.missing == 0
        assert not link.is_closed
        # Bounded: what is on its way to one peer, and how many connections there are at once.
        assert WINDOW_BYTES / 2 < max(backlogs) < WINDOW_BYTES + 2 * BYTES
        assert max(connections) == CONNECTIONS_MAX
        assert took_s < 5.0 * (1 + dead / CONNECTIONS_MAX) + 1, (
            "the deadline of a dial, as often as the dead take turns"
        )
        link.close()
        await scene.ended()
        peers.cancel_scope.cancel()
