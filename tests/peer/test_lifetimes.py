"""How long links live: idle ends, the least recently used, crashes, replacements, and redials of who is wanted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from message_examples import CALL
from quic_tools import Peer, credentials, host, leftovers, open_peer

from macula_trio._ids import Contact
from macula_trio._net.quic import Connection
from macula_trio._peer.backoff import BASE_S
from macula_trio._peer.link import ENDING_GRACE_S, QuicLink
from macula_trio._peer.liveness import PROBE_MIN_S, PROBES
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio.abc import Link
from macula_trio.errors import NotSent, PeerUnavailable
from macula_trio.testing import SimNetwork

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
KEEPALIVE_S = 10.0
IDLE_S = 60.0


def cast(number: int) -> wire.Cast:
    return wire.Cast(procedure="a.b", args=b"%d" % number)


def take_casts(peer: Peer) -> list[int]:
    """Numbers of the casts that have come, in that order."""
    taken: list[int] = []
    peer.registry.handle(wire.Cast, lambda _link, message: taken.append(int(message.args)))
    return taken


class Slow:
    """Answers calls only when it is told to; what runs for a caller ends with its link, as handlers do."""

    def __init__(self, peer: Peer) -> None:
        self.waiting: list[tuple[Link, wire.Call]] = []
        self.cancelled = 0
        peer.registry.handle(wire.Call, self._on_call)

    def _on_call(self, link: Link, call: wire.Call) -> None:
        self.waiting.append((link, call))
        link.add_close_callback(self._cancel)

    def _cancel(self) -> None:
        self.cancelled += 1

    def answer(self) -> None:
        for link, call in self.waiting:
            link.remove_close_callback(self._cancel)
            link.send_nowait(wire.Reply(call_id=call.call_id, result=b"1"))
        self.waiting.clear()


def dying(network_gone: list[tuple[str, int]]) -> Callable[[tuple[str, int], tuple[str, int], bytes], bytes | None]:
    return lambda source, target, data: None if source in network_gone or target in network_gone else data


async def ended(peer: Peer) -> None:
    """Wait for the end of its only link."""
    end = trio.Event()
    peer.registry.on_closed(lambda _link: end.set())
    await end.wait()
    assert peer.registry.links == []


def ends(peer: Peer) -> dict[str, int]:
    return dict(peer.registry.counters.closed)


# -- idle, and too many ----------------------------------------------------------------------------------------------


async def test_a_link_that_nobody_uses_lives_until_the_idle_time_and_then_leaves_nothing(autojump_clock: Clock) -> None:
    network = SimNetwork()
    policy = {"link_idle_s": IDLE_S, "keepalive_s": KEEPALIVE_S}
    async with open_peer(network, 1, policy=policy) as one, open_peer(network, 2, policy=policy) as two:
        link = await one.registry.link_to(two.contact)
        await trio.sleep(IDLE_S - 1)
        assert not link.is_closed, "signs of life have kept it"
        link.send_nowait(cast(1))
        await trio.sleep(IDLE_S - 1)
        assert not link.is_closed, "a frame that is no sign of life counts"
        await trio.sleep(2)
        assert link.is_closed
        assert (ends(one), ends(two)) == ({"idle": 1}, {"goodbye": 1})
        await trio.sleep(5)
        assert leftovers(one.endpoint) == leftovers(two.endpoint) == {}


async def test_who_dialed_asks_for_signs_of_life_and_the_other_need_not(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        await one.registry.link_to(two.contact)
        await trio.sleep(100)
        assert one.registry.counters.sent["PING"] == two.registry.counters.received["PING"]
        assert 9 <= one.registry.counters.sent["PING"] <= 12
        assert two.registry.counters.sent["PING"] == 0


async def test_an_idle_link_ends_without_losing_what_the_other_side_sends_at_that_moment(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, policy={"link_idle_s": IDLE_S}) as one, open_peer(network, 2) as two:
        taken, slow = take_casts(one), Slow(one)
        link = await one.registry.link_to(two.contact)
        at_two = two.registry.live_link(one.node_id)
        assert at_two is not None
        async with trio.open_nursery() as nursery:
            await trio.sleep_until(link.used_at + IDLE_S + ENDING_GRACE_S)  # the end is on its way to us
            at_two.send_nowait(cast(7))
            nursery.start_soon(at_two.ask, CALL, wire.Reply)
            await trio.sleep(1)
            assert taken == [7]
            assert one.registry.live_link(two.node_id) is None
            await trio.sleep(30)  # it takes its time
            slow.answer()
        await trio.sleep(5)
        assert slow.cancelled == 0
        assert one.endpoint.connections == two.endpoint.connections == 0


async def test_who_asks_on_a_link_that_ends_learns_that_nothing_was_sent(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1, policy={"link_idle_s": IDLE_S}) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)
        at_two = two.registry.live_link(one.node_id)
        assert at_two is not None
        slow = Slow(one)
        async with trio.open_nursery() as nursery:
            await trio.sleep_until(link.used_at + IDLE_S + ENDING_GRACE_S)
            nursery.start_soon(at_two.ask, CALL, wire.Reply)
            await trio.sleep(1)
            with pytest.raises(NotSent):
                await link.ask(CALL, wire.Reply)
            new = await one.registry.link_to(two.contact)
            assert new is not link
            dialed = one.endpoint.counters.connections_dialed
            for _ in range(5):  # the answer is still owed on the old one
                assert await one.registry.link_to(two.contact) is new
                assert one.registry.live_link(two.node_id) is new
                await trio.sleep(0.5)
            assert one.endpoint.counters.connections_dialed == dialed
            slow.answer()


async def test_the_least_recently_used_link_that_is_not_busy_makes_room(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_peer(network, 1, policy={"links_max": 2}) as one,
        open_peer(network, 2) as two,
        open_peer(network, 3) as three,
        open_peer(network, 4) as four,
        open_peer(network, 5) as five,
        trio.open_nursery() as nursery,
    ):
        slow = Slow(two)
        busy, first = await one.registry.link_to(two.contact), await one.registry.link_to(three.contact)
        nursery.start_soon(busy.ask, CALL, wire.Reply)
        await trio.sleep(1)
        second = await one.registry.link_to(four.contact)
        await trio.sleep(1)
        assert (busy.is_closed, first.is_closed, second.is_closed) == (False, True, False)
        second.send_nowait(cast(1))
        third = await one.registry.link_to(five.contact)
        await trio.sleep(1)
        assert (busy.is_closed, second.is_closed, third.is_closed) == (False, True, False)
        assert ends(one) == {"surplus": 2}
        slow.answer()


async def test_what_others_dialed_does_not_count_among_our_own(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_peer(network, 1, policy={"links_max": 1}) as one,
        open_peer(network, 2) as two,
        open_peer(network, 3) as three,
    ):
        await two.registry.link_to(one.contact)
        await three.registry.link_to(one.contact)
        await trio.sleep(1)
        assert len(one.registry.links) == 2


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialer_dies", [False, True])
async def test_a_crashed_peer_is_noticed_within_the_keepalive_and_three_probes(
    dialer_dies: bool, autojump_clock: Clock
) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)
        await trio.sleep(35)
        gone.append(host(1 if dialer_dies else 2))
        survivor, left = (two, one) if dialer_dies else (one, two)
        died_at = trio.current_time()
        with trio.fail_after(KEEPALIVE_S + PROBES * PROBE_MIN_S + 0.1):
            await ended(survivor)
        assert trio.current_time() - died_at > PROBES * PROBE_MIN_S
        assert ends(survivor) == {"silent": 1}
        assert link.was_lost or dialer_dies
        with pytest.raises(PeerUnavailable):
            await survivor.registry.link_to(left.contact)


async def test_new_work_for_a_peer_that_was_lost_fails_at_once(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        await one.registry.link_to(two.contact)
        gone.append(host(2))
        await ended(one)
        started, dialed = trio.current_time(), one.endpoint.counters.connections_dialed
        with pytest.raises(PeerUnavailable, match="silent for .*; not dialed again for"):
            await one.registry.link_to(two.contact)
        assert (trio.current_time(), one.endpoint.counters.connections_dialed) == (started, dialed)
        gone.clear()
        await trio.sleep(BASE_S)
        await one.registry.link_to(two.contact)


async def test_one_side_that_has_forgotten_a_link_comes_back_by_another_one(autojump_clock: Clock) -> None:
    """The other side still prefers its own, older dial, asks it for a sign of life, and gives it up."""
    cut: list[bool] = []
    network = SimNetwork(tap=lambda _source, _target, data: None if cut else data)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        lower, higher = sorted((one, two), key=lambda peer: peer.node_id)
        taken = take_casts(lower)
        old = await lower.registry.link_to(higher.contact)
        await trio.sleep(1)
        cut.append(True)
        at_higher = higher.registry.live_link(lower.node_id)
        assert at_higher is not None
        at_higher.close()
        await trio.sleep(1)
        cut.clear()
        await trio.sleep(1)
        assert not old.is_closed, "nobody has told it"
        new = await higher.registry.link_to(lower.contact)
        new.send_nowait(cast(1))
        await trio.sleep(PROBES * PROBE_MIN_S + 1.0)
        assert old.is_ended
        assert taken == [1]
        assert [link.link_id for link in lower.registry.links] == [new.link_id]


# -- turnover ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worn_at", ["dialer", "listener"])
async def test_a_worn_link_is_replaced_without_losing_or_reordering_anything(
    worn_at: str, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worn: set[Connection] = set()
    monkeypatch.setattr(Connection, "is_worn", property(lambda connection: connection in worn))
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two, trio.open_nursery() as nursery:
        taken, slow = (take_casts(one), take_casts(two)), Slow(two)
        old = await one.registry.link_to(two.contact)
        at_two = two.registry.live_link(one.node_id)
        assert at_two is not None
        answers: list[wire.Reply] = []

        async def call() -> None:
            answers.append(await old.ask(CALL, wire.Reply))

        nursery.start_soon(call)
        await trio.sleep(1)
        worn.add((old if worn_at == "dialer" else at_two)._connection)
        for number in range(300):
            for source, target in ((one, two), (two, one)):
                (await source.registry.link_to(target.contact)).send_nowait(cast(number))
            await trio.sleep(0.05)
        assert taken == (list(range(300)), list(range(300)))
        new = one.registry.live_link(two.node_id)
        assert new is not None
        assert new is not old
        assert old.is_ended
        assert not old.is_closed, "for whoever holds it, it goes on"
        assert len(one.registry.links) == len(two.registry.links) == 1
        assert ends(one) == ends(two) == {"replaced": 1}
        old.send_nowait(cast(300))
        assert slow.cancelled == 0, "what runs for the peer runs on"
        slow.answer()
        await trio.sleep(1)
        assert [answer.call_id for answer in answers] == [CALL.call_id]
        assert taken[1][-1] == 300


async def test_a_worn_link_whose_peer_cannot_be_dialed_stays(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        old = await one.registry.link_to(two.contact)
        monkeypatch.setattr(Connection, "is_worn", property(lambda connection: connection is old._connection))
        monkeypatch.setattr(one.endpoint, "obstacle", lambda _host: "no way")
        await trio.sleep(60)
        assert one.registry.live_link(two.node_id) is old
        monkeypatch.undo()
        monkeypatch.setattr(Connection, "is_worn", property(lambda connection: connection is old._connection))
        await trio.sleep(60)
        assert one.registry.live_link(two.node_id) is not old


# -- redial ------------------------------------------------------------------------------------------------------------


async def test_a_lost_peer_is_dialed_again_while_somebody_wants_it(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1, dial_deadline_s=1) as one, open_peer(network, 2) as two:
        with one.registry.want(two.contact), one.registry.want(two.contact):
            await trio.sleep(60)
            assert one.registry.links == [], "wanting alone dials nobody"
            await one.registry.link_to(two.contact)
            gone.append(host(2))
            await trio.sleep(200)
            attempts = [event.facts["attempt"] for event in one.named("link.redial")]
            assert attempts == list(range(1, len(attempts) + 1))
            assert len(attempts) == one.registry.redials
            assert 4 <= len(attempts) <= 30, "with growing pauses"
            gone.clear()
            await trio.sleep(60)
            assert one.registry.live_link(two.node_id) is not None
            redials = one.registry.redials
            gone.append(host(2))
            await trio.sleep(30)
            assert one.registry.redials > redials
        redials = one.registry.redials
        await trio.sleep(200)
        assert one.registry.redials == redials, "nobody wants it any more"


async def test_a_peer_that_said_goodbye_or_that_nobody_wants_is_not_dialed_again(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1) as one, open_peer(network, 2) as two, open_peer(network, 3) as three:
        await one.registry.link_to(three.contact)
        with one.registry.want(two.contact):
            await one.registry.link_to(two.contact)
            two.registry.leave()
            gone.append(host(3))
            await trio.sleep(60)
            assert one.registry.links == []
            assert one.registry.redials == 0


async def test_a_wanted_peer_that_we_refuse_is_not_dialed_again_and_again(autojump_clock: Clock) -> None:
    """No pause follows a refusal of our own, so that trying on would be a loop without end."""
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1, dial_deadline_s=1) as one, open_peer(network, 2) as two:
        with one.registry.want(two.contact):
            await one.registry.link_to(two.contact)
            gone.append(host(2))
            await ended(one)
            one.party.judge.block(two.node_id)
            await trio.sleep(60)
            assert one.registry.redials <= 1
            one.party.judge.unblock(two.node_id)
            gone.clear()
            await one.registry.link_to(two.contact)


async def test_a_wanted_peer_whose_endpoint_is_a_name_is_left_to_whoever_resolves_it(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        named = Contact(node_id=two.node_id, endpoint="two.example:9443")
        with one.registry.want(named):
            await two.registry.link_to(one.contact)
            await trio.sleep(1)
            assert (await one.registry.link_to(named)).node_id == two.node_id
            gone.append(host(2))
            await ended(one)
            await trio.sleep(60)
        assert one.registry.redials == 0


async def test_a_wanted_peer_that_comes_by_itself_is_not_dialed_any_more(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=dying(gone))
    async with open_peer(network, 1, dial_deadline_s=1) as one, open_peer(network, 2) as two:
        with one.registry.want(two.contact):
            await one.registry.link_to(two.contact)
            gone.append(host(2))
            await trio.sleep(100)
            gone.clear()
            await two.registry.link_to(one.contact)
            redials = one.registry.redials
            await trio.sleep(100)
            assert one.registry.redials == redials
            assert len(one.registry.links) == 1


# -- dials that meet ---------------------------------------------------------------------------------------------------


async def test_a_dial_that_has_said_nothing_yet_gives_way_to_the_peer_s(autojump_clock: Clock) -> None:
    """The peer comes while ours waits for an address that nobody has."""
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        nowhere = Contact(node_id=two.node_id, endpoint=format_endpoint(host(9)))
        links: list[QuicLink] = []

        async def want() -> None:
            links.append(await one.registry.link_to(nowhere))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(want)
            await trio.sleep(0.1)
            started = trio.current_time()
            await two.registry.link_to(one.contact)
        assert trio.current_time() - started < 1
        assert not links[0].is_dialed
        await trio.sleep(5)
        assert one.endpoint.connections == 1, "the dial in vain left nothing"
        assert one.registry.dial_counters.failed == 0


async def test_who_wants_that_very_endpoint_gets_no_other_link(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_peer(network, 1, dial_deadline_s=2) as one,
        open_peer(network, 2) as two,
        trio.open_nursery() as nursery,
    ):

        async def dial() -> None:
            with pytest.raises(PeerUnavailable):
                await one.registry.dial_endpoint(format_endpoint(host(9)), expected=two.node_id)

        nursery.start_soon(dial)
        await trio.sleep(0.1)
        await two.registry.link_to(one.contact)


async def test_a_connection_for_one_thing_is_no_link(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        passing = await one.registry.dial_anew(two.contact.endpoint, expected=two.node_id, trusted=False)
        await trio.sleep(0.1)
        assert one.registry.live_link(two.node_id) is None
        assert two.registry.live_link(one.node_id) is None
        kept = await two.registry.link_to(one.contact)
        await trio.sleep(5)
        assert not passing.is_ended
        assert not kept.is_ended
        assert credentials(1).node_id == kept.node_id
