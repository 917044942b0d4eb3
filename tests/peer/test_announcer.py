"""What a change of our endpoint does, and which changes are not made."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pytest
import trio
from quic_tools import REALM, credentials

from macula_trio._events import Event, EventBus
from macula_trio._ids import NodeId
from macula_trio._peer.announcer import ROUTE_CHECK_S, Announcer
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.observed import CHANGE_PAUSE_S
from macula_trio._trust import Trust

Clock = trio.testing.MockClock
HERE, THERE, ELSEWHERE = "192.0.2.1:9443", "198.51.100.7:40001", "203.0.113.9:1"
SEEN: Final = {THERE: ("198.51.100.7", 40_001), ELSEWHERE: ("203.0.113.9", 1)}


class Scene:
    """An announcer whose surroundings are what a test makes them."""

    def __init__(self, *, problem_with: Callable[[str], str | None] = lambda _endpoint: None) -> None:
        self.party = LocalParty(
            credentials=credentials(1), instance=bytes(16), realm=REALM, trust=Trust.open(), endpoint=HERE
        )
        self.moved: list[str] = []
        self.events: list[Event] = []
        self.source: str | None = "192.0.2.1"
        bus = EventBus(trio.current_time)
        bus.listen(self.events.append)
        self.announcer = Announcer(
            self.party,
            port=9443,
            events=bus,
            source_host=self.source_host,
            problem_with=problem_with,
            moved=self.note_moved,
        )

    def source_host(self) -> str:
        if self.source is None:
            raise OSError("no route")
        return self.source

    def note_moved(self, endpoint: str) -> None:
        assert self.party.endpoint == endpoint, "told before it was so"
        self.moved.append(endpoint)

    def say(self, endpoint: str, count: int = 3) -> None:
        for number in range(count):
            link: Any = SimpleNamespace(node_id=NodeId(bytes([number + 1]) * 32), peer_host=f"5.0.{number}.1")
            self.announcer.observed(link, SEEN[endpoint])


def test_peers_that_agree_change_what_we_say() -> None:
    async def run() -> None:
        await trio.lowlevel.checkpoint()
        scene = Scene()
        scene.say(THERE, 2)
        assert (scene.party.endpoint, scene.moved) == (HERE, [])
        scene.say(THERE)
        assert (scene.party.endpoint, scene.moved) == (THERE, [THERE])
        (event,) = scene.events
        assert (event.name, event.facts) == ("endpoint.changed", {"before": HERE, "endpoint": THERE})
        scene.say(THERE)
        assert scene.moved == [THERE]

    trio.run(run)


async def test_what_has_to_wait_for_the_end_of_a_pause_happens_then(autojump_clock: Clock) -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.announcer.watch_route)
        scene.say(THERE)
        scene.say(ELSEWHERE)
        assert scene.moved == [THERE]
        await trio.sleep(CHANGE_PAUSE_S - ROUTE_CHECK_S)
        assert scene.moved == [THERE]
        await trio.sleep(2 * ROUTE_CHECK_S)
        assert scene.moved == [THERE, ELSEWHERE]
        nursery.cancel_scope.cancel()


async def test_our_own_address_is_looked_at_again_and_again(autojump_clock: Clock) -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.announcer.watch_route)
        await trio.sleep(3 * ROUTE_CHECK_S + 1)
        assert scene.moved == []
        scene.source = None
        await trio.sleep(ROUTE_CHECK_S)
        assert scene.moved == []
        scene.source = "192.0.2.77"
        await trio.sleep(ROUTE_CHECK_S)
        assert scene.moved == ["192.0.2.77:9443"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("bad", "expected"), [((THERE,), []), ((HERE,), [THERE]), ((HERE, THERE), [THERE]), ((), [THERE])]
)
async def test_an_endpoint_for_which_our_certificate_is_not_good_is_not_taken(
    bad: tuple[str, ...], expected: list[str]
) -> None:
    await trio.lowlevel.checkpoint()
    scene = Scene(problem_with=lambda endpoint: "not named in the certificate" if endpoint in bad else None)
    scene.say(THERE)
    assert scene.moved == expected
