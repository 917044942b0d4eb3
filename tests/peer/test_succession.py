"""One link after another to the same peer: who gets which, and that nothing falls between two."""

from __future__ import annotations

import pytest
import trio
from quic_tools import Peer, host, open_peer

from macula_trio._peer import registry as registry_module
from macula_trio._peer.link import ENDING_GRACE_S, ENDING_MAX_S, QuicLink
from macula_trio._wire import messages as wire
from macula_trio.abc import Link
from macula_trio.errors import NotSent
from macula_trio.testing import LinkModel, SimNetwork

Clock = trio.testing.MockClock
LATENCY_S = 0.01  # TLS is through after two of them, a dial after four


def cast(number: int) -> wire.Cast:
    return wire.Cast(procedure="n", args=b"%d" % number)


def note_casts(peer: Peer) -> list[int]:
    numbers: list[int] = []

    def note(_link: Link, message: wire.Cast) -> None:
        numbers.append(int(message.args))

    peer.registry.handle(wire.Cast, note)
    return numbers


async def test_whoever_waits_for_a_dial_gets_the_link_that_is_in_use(autojump_clock: Clock) -> None:
    """What others have sent on the better link would be overtaken by what is sent on the new one."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        lower, higher = sorted((one, two), key=lambda peer: peer.node_id)
        got: list[QuicLink] = []

        async def want() -> None:
            got.append(await higher.registry.link_to(lower.contact))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(want)
            nursery.start_soon(lower.registry.dial_endpoint, higher.contact.endpoint)
        assert higher.endpoint.counters.connections_dialed == 1
        assert [link.is_dialed for link in got] == [False]


async def test_a_dial_for_one_thing_is_given_to_nobody_else(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two, trio.open_nursery() as nursery:
        passing: list[QuicLink] = []

        async def pass_by() -> None:
            passing.append(await one.registry.dial_anew(two.contact.endpoint, expected=two.node_id, trusted=True))

        nursery.start_soon(pass_by)
        await trio.sleep(3 * LATENCY_S)  # its CONNECT has left
        link = await one.registry.link_to(two.contact)
        assert passing
        assert link not in passing
        assert not link.is_passing


async def test_links_for_one_thing_take_nobodys_place(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        endpoint = two.contact.endpoint
        for _ in range(2 * registry_module.LINKS_PER_PEER_MAX):
            await one.registry.dial_anew(endpoint, expected=two.node_id, trusted=True)
        link = await one.registry.link_to(two.contact)
        await one.registry.dial_endpoint(endpoint)
        await trio.sleep(1)
        assert not [event for peer in (one, two) for event in peer.named("link.closed") if "too many" in str(event)]
        assert len(two.registry.links) == 2 * registry_module.LINKS_PER_PEER_MAX + 1
        assert not link.is_closed


async def test_a_link_that_was_just_dialed_is_not_the_one_that_is_too_many(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=LATENCY_S)
    async with (
        open_peer(network, 1, policy={"links_max": 1}) as one,
        open_peer(network, 2) as two,
        open_peer(network, 3) as three,
    ):
        former = await one.registry.link_to(two.contact)

        async def use() -> None:
            await trio.sleep(2 * LATENCY_S)  # while the other one is being dialed
            former.send_nowait(cast(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            link = await one.registry.link_to(three.contact)
        await trio.sleep(1)
        assert one.registry.links == [link]
        assert former.is_closed


async def test_what_comes_behind_a_link_that_ends_does_not_overtake_it(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        numbers = note_casts(two)
        former = await one.registry.link_to(two.contact)
        network.set_link(LinkModel(latency_s=LATENCY_S, loss=1.0))
        former.send_nowait(cast(1))
        await trio.sleep(LATENCY_S)  # it is on its way, and lost
        network.set_link(LinkModel(latency_s=LATENCY_S))
        one.registry._retreat(former, None, "idle")
        await trio.sleep(ENDING_GRACE_S + LATENCY_S / 2)  # the last was said
        successor = await one.registry.link_to(two.contact)
        assert former.is_ended
        successor.send_nowait(cast(2))
        await trio.sleep(1)
        assert numbers == [1, 2]


async def test_nothing_new_is_said_behind_the_last_word(autojump_clock: Clock) -> None:
    """On a stream of its own, as answers go, it would be lost: the peer may close as soon as it has heard the last."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        numbers = note_casts(two)
        link = await one.registry.link_to(two.contact)
        one.registry._retreat(link, None, "idle")
        await trio.sleep(ENDING_GRACE_S + LATENCY_S / 2)
        with pytest.raises(NotSent, match="this link is ending"):
            link.send_nowait(cast(1))
        await trio.sleep(1)
        assert link.is_ended
        assert not numbers


async def test_who_is_given_a_link_that_was_about_to_end_goes_on_with_it(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        numbers = note_casts(two)
        link = await one.registry.link_to(two.contact)
        one.registry._retreat(link, None, "idle")
        await trio.sleep(ENDING_GRACE_S / 2)
        assert await one.registry.link_to(two.contact) is link
        await trio.sleep(10)
        link.send_nowait(cast(1))
        await trio.sleep(1)
        assert not link.is_ending
        assert numbers == [1]


async def test_two_links_never_wait_for_each_other(autojump_clock: Clock) -> None:
    """The one that is better waits for the other; it must not be waited for, too, when it ends before."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        for _ in range(2):
            await one.registry.dial_endpoint(two.contact.endpoint)
        best, other = sorted(one.registry.links, key=lambda link: link.client_random)
        assert other in best.succession._predecessors
        one.registry._retreat(best, None, "idle")
        one.registry._settle(two.node_id)
        assert best not in other.succession._predecessors
        await trio.sleep(1)
        assert not best.succession._predecessors
        assert not other.succession._predecessors


async def test_a_link_whose_successor_was_replaced_itself_does_not_come_back(autojump_clock: Clock) -> None:
    """Its questions wait at the end of the row, so their answers would find nobody."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        for _ in range(3):  # which the rule leaves alone
            await one.registry.dial_anew(two.contact.endpoint, expected=two.node_id, trusted=True)
        first, second, third = two.registry.links
        first.retreat(second, reason="replaced")
        second.retreat(third, reason="replaced")
        one.registry.links[1].close()
        await trio.sleep(2 * LATENCY_S)
        assert second.is_ended
        assert first.heir is third
        one.registry.links[1].close()
        await trio.sleep(2 * LATENCY_S)
        assert third.is_ended
        assert first.heir is first
        assert not first.is_ending


async def test_an_answer_finds_its_question_on_whatever_link_it_comes(autojump_clock: Clock) -> None:
    """The two sides may have gone over from the link of the question to different ones."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two, open_peer(network, 3) as three:
        for asked in (two, two, three):
            await one.registry.dial_anew(asked.contact.endpoint, expected=asked.node_id, trusted=True)

        def answer(_link: Link, call: wire.Call) -> None:
            forged, reply = (wire.Reply(call_id=call.call_id, result=result) for result in (b"forged", b"answer"))
            three.registry.links[0].send_nowait(forged)
            two.nursery.start_soon(answer_late, reply)

        async def answer_late(reply: wire.Reply) -> None:
            await trio.sleep(5 * LATENCY_S)
            two.registry.links[1].send_nowait(reply)

        two.registry.handle(wire.Call, answer)
        call = wire.Call(call_id=bytes(16), procedure="q", args=b"")
        reply = await one.registry.links[0].ask(call, wire.Reply)
        assert reply.result == b"answer", "nobody else's answer counts"


async def test_a_peer_that_lives_and_never_ends_its_side_is_left_after_a_minute(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        link = await one.registry.link_to(two.contact)
        at_two = two.registry.live_link(one.node_id)
        assert at_two is not None
        monkeypatch.setattr(at_two, "_go_on_ending", lambda: None)  # it answers PINGs, and that is all
        one.registry._retreat(link, None, "idle")
        await trio.sleep(ENDING_MAX_S - 0.5)
        assert not link.is_ended
        with trio.fail_after(2):
            new = await one.registry.link_to(two.contact)
        assert new is not link
        assert link.is_ended


async def test_a_link_that_has_ended_at_one_side_only_holds_up_nothing_that_comes_on_the_next(
    autojump_clock: Clock,
) -> None:
    """The word of its end was lost on the way; the next CONNECT says it once more."""
    network = SimNetwork(latency_s=LATENCY_S)
    async with open_peer(network, 1) as one, open_peer(network, 2) as two:
        taken = {peer: note_casts(peer) for peer in (one, two)}
        sources = [one, one, two, two, one, two, one, one, one, two, two, two]
        sent: dict[Peer, list[int]] = {one: [], two: []}
        for number, source in enumerate(sources):
            target = two if source is one else one
            if number:
                before = source.registry.live_link(target.node_id)
                assert before is not None
                network.partition([host(1)[0]])
                before.close()
                network.heal()
                assert len(target.registry.links) == 1, "it has not heard"
            link = await source.registry.link_to(target.contact)
            link.send_nowait(cast(number))
            sent[source].append(number)
            await trio.sleep(10 * LATENCY_S)
            assert taken[target] == sent[source]
            assert target.registry.links[-1].link_id == link.link_id
            assert len(target.registry.links) == 1
        assert [event.facts["dialed"] for event in one.named("link.opened")] == [source is one for source in sources]
