"""Calls between two nodes: many at once, deadlines and cancellation that cross the network, every way to fail."""

from __future__ import annotations

from math import inf

import pytest
import trio
from node_tools import add

import macula_trio as macula
from macula_trio._wire.messages import Call as CallMessage
from macula_trio._wire.messages import Reply
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock


async def test_two_hundred_calls_in_a_row_and_at_once_go_over_one_link(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (provider, caller), provider.advertise("math.add", add):
        for number in range(200):
            assert await caller.call("math.add", {"a": number, "b": 1}) == number + 1
        sums: list[object] = []

        async def one(number: int) -> None:
            sums.append(await caller.call("math.add", {"a": number, "b": 1}))

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number)
        assert sorted(sums, key=str) == sorted(range(1, 201), key=str)
        assert caller.statistics().links == provider.statistics().links == 1


async def test_a_sleeping_handler_is_cancelled_when_the_callers_deadline_passes(autojump_clock: Clock) -> None:
    ended: list[tuple[str, float, float]] = []

    async def sleep_long(call: macula.Call) -> object:
        try:
            await trio.sleep(60)
        except trio.Cancelled:
            ended.append(("cancelled", trio.current_time(), call.deadline))
            raise
        return "too late"

    async with open_mesh(2) as (provider, caller), provider.advertise("sleep.long", sleep_long):
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2):
            await caller.call("sleep.long")
        await trio.sleep(0.1)
        assert [how for how, _, _ in ended] == ["cancelled"]
        assert ended[0][1] - started == pytest.approx(2, abs=0.05)
        assert ended[0][2] - started == pytest.approx(2, abs=0.05)
        assert provider.statistics().calls_running == 0


async def test_a_handler_ends_at_the_callers_deadline_even_when_nobody_can_tell_it(autojump_clock: Clock) -> None:
    ended: list[float] = []
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)

    async def sleep_long(call: macula.Call) -> object:
        gone.append(("10.0.0.2", 9443))  # no CANCEL of the caller's arrives any more
        try:
            await trio.sleep(60)
        finally:
            ended.append(trio.current_time())

    async with open_mesh(2, network=network) as (provider, caller), provider.advertise("sleep.long", sleep_long):
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2):
            await caller.call("sleep.long")
        await trio.sleep(0.1)
        assert [when - started for when in ended] == [pytest.approx(2, abs=0.05)]


async def test_cancelling_the_caller_cancels_the_handler_and_the_calls_it_made(autojump_clock: Clock) -> None:
    ended: list[str] = []
    inner_started = trio.Event()

    async with open_mesh(3) as (inner, outer, caller):

        async def sleep_inside(call: macula.Call) -> object:
            inner_started.set()
            try:
                await trio.sleep(60)
            finally:
                ended.append("inner")

        async def call_further(call: macula.Call) -> object:
            try:
                return await outer.call("inner.sleep")
            finally:
                ended.append("outer")

        async with inner.advertise("inner.sleep", sleep_inside), outer.advertise("outer.call", call_further):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.call, "outer.call")
                await inner_started.wait()
                nursery.cancel_scope.cancel()
            await trio.sleep(0.1)  # virtual: CANCEL travels twice
            assert ended == ["outer", "inner"]
            assert caller.statistics().frames_sent["CANCEL"] == outer.statistics().frames_sent["CANCEL"] == 1


async def test_a_handler_is_cancelled_when_its_caller_is_gone(autojump_clock: Clock) -> None:
    ended = trio.Event()

    async def sleep_long(call: macula.Call) -> object:
        try:
            await trio.sleep(60)
        finally:
            ended.set()

    network = SimNetwork()
    async with open_mesh(1, network=network) as (provider,), provider.advertise("sleep.long", sleep_long):
        config = macula.NodeConfig(realm=provider.realm, listen="10.0.0.9:1", bootstrap=[provider.endpoint])
        async with macula.open_node(config, network=network) as caller:
            with trio.move_on_after(1):
                await caller.call("sleep.long")
        with trio.fail_after(1):
            await ended.wait()


async def test_without_any_deadline_a_call_ends_in_call_timeout(autojump_clock: Clock) -> None:
    async def sleep_long(call: macula.Call) -> object:
        await trio.sleep(600)

    async with open_mesh(2) as (provider, caller), provider.advertise("sleep.long", sleep_long):
        assert trio.current_effective_deadline() == inf
        started = trio.current_time()
        with pytest.raises(macula.CallTimeout, match=r"sleep\.long"):
            await caller.call("sleep.long")
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)


async def test_what_a_handler_raises_is_an_answer_and_harms_nothing(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(call: macula.Call) -> object:
        raise macula.Reject("too_hot", "39 degrees")

    async def pretend(call: macula.Call) -> object:
        raise macula.Reject("busy", "as if it had not run")

    async def crash(call: macula.Call) -> object:
        raise RuntimeError("a secret")

    async def unspeakable(call: macula.Call) -> object:
        return object()

    async with (
        open_mesh(2) as (provider, caller),
        provider.advertise("a.refuse", refuse),
        provider.advertise("a.pretend", pretend),
        provider.advertise("a.crash", crash),
        provider.advertise("a.unspeakable", unspeakable),
        provider.advertise("a.add", add),
    ):
        with pytest.raises(macula.RemoteCallError) as refused:
            await caller.call("a.refuse")
        assert (refused.value.code, refused.value.message) == ("too_hot", "39 degrees")
        with pytest.raises(macula.RemoteCallError) as pretended:
            await caller.call("a.pretend")
        assert pretended.value.code == "handler_error", "a code that would let the call run again elsewhere"
        for procedure in ("a.crash", "a.unspeakable"):
            with pytest.raises(macula.RemoteCallError) as crashed:
                await caller.call(procedure)
            assert crashed.value.code == "internal_error"
            assert "secret" not in str(crashed.value)
        assert "a secret" in caplog.text, "the provider's log has the traceback"
        assert await caller.call("a.add", {"a": 1, "b": 1}) == 2


async def test_nobody_advertises_it(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (_, caller):
        with pytest.raises(macula.NoProviders, match=r"no\.such"):
            await caller.call("no.such")
        with pytest.raises(ValueError, match="not valid"):
            await caller.call("no such")
        with pytest.raises(ValueError, match="round_robin"):
            await caller.call("no.such", select="psychic")


async def test_a_provider_that_is_down_is_peer_unavailable_and_another_one_takes_over(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    config = macula.NodeConfig(realm="org.example.test", keepalive_s=1)
    async with (
        open_mesh(4, network=network, config=config) as (_, first, second, caller),
        first.advertise("who.are.you", lambda _call: whoever("first")),
    ):
        assert await caller.call("who.are.you") == "first"
        gone.append(("10.0.0.2", 9443))
        await trio.sleep(10)  # virtual: the link has timed out
        with pytest.raises(macula.PeerUnavailable, match=r"10\.0\.0\.2:9443"), trio.fail_after(6):
            await caller.call("who.are.you")
        async with second.advertise("who.are.you", lambda _call: whoever("second")):
            # Both are in the DHT; the dead one is tried first or second, and never in place of the living.
            with trio.fail_after(6):
                assert await caller.call("who.are.you") == "second"


async def whoever(name: str) -> object:
    await trio.lowlevel.checkpoint()
    return name


async def test_too_many_calls_at_once_are_refused_as_busy(autojump_clock: Clock) -> None:
    config = macula.NodeConfig(realm="org.example.test", handlers_per_caller_max=2)
    release = trio.Event()

    async def wait(call: macula.Call) -> object:
        await release.wait()
        return None

    codes: list[str] = []

    async with open_mesh(2, config=config) as (provider, caller), provider.advertise("a.wait", wait):

        async def one() -> None:
            try:
                await caller.call("a.wait")
            except macula.RemoteCallError as exc:
                codes.append(exc.code)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
            await trio.sleep(1)
            release.set()
        assert codes == ["busy"] * 3


async def test_payloads_arrive_as_they_were_sent(autojump_clock: Clock) -> None:
    async def echo(call: macula.Call) -> object:
        return call.args

    values: list[object] = [None, True, 1, -1, 1.5, "text", b"bytes", [1, "two", None], {"a": {"b": []}}]
    async with open_mesh(2) as (provider, caller), provider.advertise("a.echo", echo):
        for value in values:
            assert await caller.call("a.echo", value) == value
            assert await provider.call("a.echo", value) == value, "called on the node that provides it"
        with pytest.raises(macula.LocalProtocolError):
            await caller.call("a.echo", object())
        with pytest.raises(macula.PayloadTooLarge):
            await caller.call("a.echo", bytes(2_000_000))
        assert await caller.call("a.echo", bytes(500_000)) == bytes(500_000)


@pytest.mark.long
async def test_large_answers_to_many_calls_at_once_all_arrive(autojump_clock: Clock) -> None:
    async def big(call: macula.Call) -> object:
        return bytes(900_000)

    sizes: list[int] = []
    async with open_mesh(2) as (provider, caller), provider.advertise("a.big", big):

        async def one() -> None:
            answer = await caller.call("a.big")
            assert isinstance(answer, bytes)
            sizes.append(len(answer))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(one)
    assert sizes == [900_000] * 20


async def test_a_handler_knows_its_caller_and_headers(autojump_clock: Clock) -> None:
    calls: list[macula.Call] = []

    async def note(call: macula.Call) -> object:
        calls.append(call)

    async with open_mesh(2) as (provider, caller), provider.advertise("a.note", note):
        await caller.call("a.note", headers={"trace": "t1"})
        await provider.call("a.note")
    assert [call.caller for call in calls] == [caller.node_id, provider.node_id]
    assert calls[0].headers == {"trace": "t1"}
    assert calls[0].procedure == "a.note"
    assert len(calls[0].call_id) == 16


async def test_a_repeated_call_id_is_answered_from_memory(autojump_clock: Clock) -> None:
    runs: list[object] = []

    async def count(call: macula.Call) -> object:
        runs.append(call.args)
        return len(runs)

    async with open_mesh(2) as (provider, caller), provider.advertise("a.count", count):
        link = caller._registry.live_link(provider.node_id)
        assert link is not None
        for _ in range(3):
            reply = await link.ask(CallMessage(call_id=bytes(16), procedure="a.count", args=b"null"), Reply)
            assert reply.result == b"1"
    assert runs == [None]


async def test_a_procedure_is_advertised_once_per_node(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,), node.advertise("a.b", add):
        with pytest.raises(macula.AlreadyAdvertised):
            async with node.advertise("a.b", add):
                raise AssertionError("entered")
        assert await node.call("a.b", {"a": 1, "b": 2}) == 3
