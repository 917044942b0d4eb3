"""A node calls itself through its own socket: what the report says, whom it concerns, and how often it asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from authorisation_tools import Sleeper, facts, outcomes, outsider, rpc_route
from cancel_tools import CancelAtStep, lasting_tasks
from node_tools import watch
from quic_tools import connect_bare, open_endpoint
from realm_tools import REALM, Authority

import macula_trio as macula
from macula_trio._health import HEALTH_DEADLINE_S, HEALTH_VALID_S
from macula_trio._rpc.offer import HEALTH_PROCEDURE
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
HERE: Final = "10.0.0.1"
ROOT: Final = Authority.create()
ASKED: Final = wire.Call(call_id=bytes(16), procedure=HEALTH_PROCEDURE, args=b"null")
POLICIES: Final = {
    "open": macula.Trust.open(),
    "only": macula.Trust.only([]),  # nobody at all
    "pinned": macula.Trust.pinned(["ab" * 32]),
    "realm": macula.Trust.realm(ROOT.pem),
    "unverified": macula.Trust.unverified(),
}


def config(**changes: Any) -> macula.NodeConfig:
    return macula.NodeConfig(**({"realm": REALM, "listen": f"{HERE}:9443"} | changes))


@asynccontextmanager
async def a_node(network: SimNetwork | None = None, **changes: Any) -> AsyncGenerator[macula.Node, None]:
    """A node that was asked once, so that there is a prober."""
    async with macula.open_node(config(**changes), identity=ROOT.issue(), network=network or SimNetwork()) as node:
        assert (await node.check_health()).ok
        await trio.sleep(HEALTH_VALID_S)
        yield node


def dials(network: SimNetwork, node: macula.Node) -> int:
    assert node._quic is not None
    return node._quic.counters.connections_accepted


# -- well, under every policy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_node_is_well_whomever_it_lets_in(policy: str, autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(trust=POLICIES[policy]), identity=ROOT.issue(), network=network) as node:
        before = network.bound
        report = await node.check_health()
        assert (report.ok, report.reason) == (True, None)
        assert 0 < report.seconds < HEALTH_DEADLINE_S  # virtual: a handshake and a call
        assert network.bound == before, "a socket is left"


@pytest.mark.parametrize("listen", ["0.0.0.0:9443", "[::]:9443"])
async def test_a_machine_with_two_addresses_that_listens_on_a_wildcard(listen: str, autojump_clock: Clock) -> None:
    machine = SimNetwork().host("machine", HERE, also=["2001:db8::1"])
    async with macula.open_node(config(listen=listen), network=machine) as node:
        assert (await node.check_health()).ok


async def test_the_policy_and_the_key_may_change(autojump_clock: Clock) -> None:
    async with a_node() as node:
        node.reload_trust(macula.Trust.only([]))
        node.renew_identity(ROOT.issue(7))
        assert (await node.check_health()).ok


async def test_it_is_a_call_like_any_other_but_no_peer(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (node, _):
        events = watch(node)
        seen: list[int] = []
        node._events.listen(lambda _event: seen.append(len(node.peers())))
        assert (await node.check_health()).ok
        await trio.sleep(0.1)
        assert [event.name for event in events] == ["rpc.started", "rpc.served"]
        assert facts(events, "rpc.served")[0]["procedure"] == HEALTH_PROCEDURE
        assert set(seen) == {len(node.peers())} == {1}
        assert node.statistics().links == 1
        assert len(node.known_nodes()) == 1
        assert node._registry._probes == {}


# -- not well ------------------------------------------------------------------------------------------------------


async def test_no_handler_is_free(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with open_mesh(2, config=config(handlers_max=1)) as (node, caller), node.advertise("a.b", sleeper):
        events = watch(node, "health.failed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "a.b")
            await trio.sleep(0.1)
            report = await node.check_health()
            assert (report.ok, report.reason) == (False, "busy: too many calls are running")
            assert facts(events, "health.failed") == [{"reason": report.reason, "seconds": round(report.seconds, 6)}]
            sleeper.release.set()
        await trio.sleep(HEALTH_VALID_S)
        assert (await node.check_health()).ok


async def test_handlers_do_not_begin(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_node() as node:
        monkeypatch.setattr(node._rpc.callee._background, "start_soon", lambda *_args, **_options: True)
        report = await node.check_health()
        assert (report.ok, report.reason) == (False, "no answer within 1 s")


async def test_the_socket_hears_nothing(autojump_clock: Clock) -> None:
    deaf = False
    network = SimNetwork(tap=lambda _source, _target, data: None if deaf else data)
    async with a_node(network) as node:
        deaf = True
        report = await node.check_health()
        assert (report.ok, report.reason) == (False, "no answer within 1 s")
        deaf = False
        await trio.sleep(HEALTH_VALID_S)
        assert (await node.check_health()).ok


async def test_somebody_else_sits_on_our_address(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network) as node, macula.open_node(config(listen="10.0.0.2:1"), network=network) as other:
        node._quic, own = other._quic, node._quic
        report = await node.check_health()
        node._quic = own
        assert not report.ok
        assert "peer dialed for another node than us" in str(report.reason)


async def test_there_is_no_socket_to_ask_from(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimNetwork()

    async def bind(address: object) -> object:
        raise OSError(24, "Too many open files")

    async with a_node(network) as node:
        monkeypatch.setattr(network, "bind", bind)
        report = await node.check_health()
        assert (report.ok, report.reason) == (False, "no socket to ask from: Too many open files")


async def test_an_answer_must_be_that_of_the_question(autojump_clock: Clock) -> None:
    async def forget(call: macula.Call) -> object:
        return None

    async with a_node() as node:
        node._rpc.callee._health.handler = forget
        assert (await node.check_health()).reason == "the answer is not that of the question"


async def test_a_node_that_closes_meanwhile(autojump_clock: Clock) -> None:
    reports: list[macula.HealthReport] = []
    async with trio.open_nursery() as nursery, a_node() as node:
        node._rpc.callee._health.handler = Sleeper()

        async def check() -> None:
            reports.append(await node.check_health())

        nursery.start_soon(check)
        await trio.sleep(0.1)
    assert [report.ok for report in reports] == [False]
    assert "the node is closing" in str(reports[0].reason)
    with pytest.raises(trio.ClosedResourceError):
        await node.check_health()


# -- whom it concerns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["open", "unverified"])
async def test_for_all_others_there_is_no_such_procedure(policy: str, autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network, trust=POLICIES[policy]) as node:
        probe = node._party.judge.probe
        assert probe is not None
        async with outsider(network, node) as stranger:
            stranger.say(ASKED)
            stranger.say(rpc_route(node, ASKED, source_node_id=probe))
            stranger.say(wire.Cast(procedure=HEALTH_PROCEDURE, args=b"null"))
            await trio.sleep(0.1)
            assert outcomes(stranger) == ["no_handler", "no_handler"]
        with pytest.raises(macula.NoProviders):
            await node.call(HEALTH_PROCEDURE)


async def test_the_id_of_the_prober_without_its_key_is_worth_nothing(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network, trust=macula.Trust.unverified()) as node:
        probe = node._party.judge.probe
        assert probe is not None
        async with open_endpoint(network, 12) as endpoint:
            liar = await connect_bare(endpoint, parse_endpoint(node.endpoint))
            liar.say(wire.Connect(node_id=probe, realm_id=REALM, capabilities=()))
            liar.say(ASKED)
            await trio.sleep(0.1)
            assert outcomes(liar) == ["no_handler"]
            assert node._registry._probes == {}


async def test_applications_cannot_offer_it(autojump_clock: Clock) -> None:
    async with macula.open_node(config(), network=SimNetwork()) as node:
        with pytest.raises(ValueError, match="reserved for the node's own health check"):
            async with node.advertise(HEALTH_PROCEDURE, Sleeper()):
                pass


async def test_the_prober_is_in_no_table_and_the_procedure_not_in_the_dht(autojump_clock: Clock) -> None:
    async with open_mesh(3) as nodes:
        for node in nodes:
            assert (await node.check_health()).ok
        assert await nodes[0].find_providers(HEALTH_PROCEDURE) == []
        ids = {node.node_id for node in nodes}
        assert {contact.node_id for node in nodes for contact in node.known_nodes()} <= ids


async def test_a_node_that_is_never_asked_lets_nobody_in_for_it(autojump_clock: Clock) -> None:
    async with macula.open_node(config(), network=SimNetwork()) as node:
        assert node._party.judge.probe is None


# -- how often it asks ---------------------------------------------------------------------------------------------


async def test_many_who_ask_at_once_or_again_soon_get_one_report(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network) as node:
        before = dials(network, node)
        reports: list[macula.HealthReport] = []

        async def check() -> None:
            reports.append(await node.check_health())

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(check)
        await check()
        assert len(reports) == 51
        assert {id(report) for report in reports} == {id(reports[0])}
        assert dials(network, node) == before + 1
        await trio.sleep(HEALTH_VALID_S)
        await check()
        assert dials(network, node) == before + 2


async def test_who_is_cancelled_takes_no_report_from_the_others(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network) as node:
        before, bound = dials(network, node), network.bound
        reports: list[macula.HealthReport] = []

        async def check() -> None:
            reports.append(await node.check_health())

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.002) as impatient:  # dialing
                nursery.start_soon(trio.sleep, 0)
                await node.check_health()
            assert impatient.cancelled_caught
            assert network.bound == bound
            nursery.start_soon(check)
            nursery.start_soon(check)
        assert [report.ok for report in reports] == [True, True]
        assert dials(network, node) == before + 2


async def test_cancelled_at_any_step_nothing_is_left(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with a_node(network) as node:
        step = 1
        while True:
            tasks, bound = lasting_tasks(), network.bound
            knife = CancelAtStep(step)
            trio.lowlevel.add_instrument(knife)
            try:
                knife.armed = True
                with knife.scope:
                    await node.check_health()
            finally:
                knife.armed = False
                trio.lowlevel.remove_instrument(knife)
            assert network.bound == bound, "a socket is left"
            await trio.sleep(HEALTH_VALID_S)
            assert lasting_tasks() == tasks, "a task is left"
            assert node.statistics().calls_running == 0
            assert node._registry._probes == {}, "a link is left"
            if not knife.scope.cancel_called:
                break
            step += 1
        assert step > 10, "too few steps for a sweep of anything"
        assert (await node.check_health()).ok


# -- ready ---------------------------------------------------------------------------------------------------------


async def test_a_node_is_ready_while_it_knows_another_one(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network) as alone:
        assert alone.is_ready  # has nobody to ask
    assert not alone.is_ready
    lonely = config(listen="10.0.0.2:1", bootstrap=[f"{HERE}:9443"])
    async with macula.open_node(lonely, network=network) as node:
        assert not node.is_ready
        async with macula.open_node(config(), network=network):
            with trio.fail_after(120):  # virtual
                await node.wait_joined()
            assert node.is_ready
        await trio.sleep(1)
        assert not node.is_ready  # it said goodbye, and was the only one
