"""Cancelled at its n-th step for every n, nothing is left: no task, no socket, no record in the DHT."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from math import inf

import attrs
import pytest
import trio
from cancel_tools import CancelAtStep, lasting_tasks

import macula_trio as macula
from macula_trio.testing import LinkModel, SimNetwork, open_mesh

REALM = "org.example.test"
GUEST = macula.Identity.from_seed(bytes(32))


async def handler(call: macula.Call) -> object:
    return call.args


Block = Callable[[SimNetwork, list[macula.Node]], AbstractAsyncContextManager[macula.Node]]
DrainBlock = Callable[[SimNetwork, list[macula.Node], CancelAtStep], AbstractAsyncContextManager[macula.Node]]


def config(listen: str) -> macula.NodeConfig:
    return macula.NodeConfig(realm=REALM, listen=listen, bootstrap=["10.0.0.1:9443"])


@asynccontextmanager
async def a_node(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    async with macula.open_node(config("10.9.9.9:1"), identity=GUEST, network=network) as node:
        yield node


@asynccontextmanager
async def a_provider(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    async with nodes[1].advertise("sweep.me", handler):
        assert await nodes[2].call("sweep.me", {"n": 1}) == {"n": 1}
        yield nodes[1]


@asynccontextmanager
async def a_subscriber(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    async with nodes[1].subscribe("sweep.me") as messages:
        await nodes[2].publish("sweep.me", "text")
        assert (await messages.receive()).payload == "text"
        yield nodes[1]


@asynccontextmanager
async def a_subscriber_by_patterns(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    """Two patterns share a value, which is stored anew when the second one comes and goes."""
    async with nodes[1].subscribe("sweep.**"):
        async with nodes[1].subscribe("sweep.*") as messages:
            await nodes[2].publish("sweep.me", "text")
            assert (await messages.receive()).payload == "text"
        yield nodes[1]


@asynccontextmanager
async def a_node_with_both(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    async with a_node(network, nodes) as node, node.advertise("sweep.me", handler), node.subscribe("sweep.me"):
        yield node


@asynccontextmanager
async def a_node_without_links(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    """Every message and every question of its has a connection and a task of its own."""
    apart = attrs.evolve(config("10.9.9.9:1"), connections="per-message")
    async with macula.open_node(apart, identity=GUEST, network=network) as node:
        with pytest.raises(macula.NoProviders):
            await node.call("sweep.nobody")
        yield node


@asynccontextmanager
async def a_node_on_a_small_path(network: SimNetwork, nodes: list[macula.Node]) -> AsyncGenerator[macula.Node, None]:
    """Its dial becomes a race of two connections, which may be cancelled before, within and after it."""
    network.set_link(LinkModel(mtu_bytes=1372), source="10.9.9.9")
    async with a_node(network, nodes) as node:
        assert node._quic is not None
        assert node._quic.counters.connections_raced > 0
        yield node


@attrs.define
class Handler:
    """Takes its time, and tells when it begins."""

    seconds: float
    began: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self, call: macula.Call) -> object:
        self.began.set()
        await trio.sleep(self.seconds)
        return call.args


async def call(node: macula.Node, procedure: str) -> None:
    """Its provider may be cancelled sooner than the caller."""
    with suppress(macula.RemoteCallError, macula.NoProviders):
        await node.call(procedure)


async def advertise(node: macula.Node, procedure: str, handler: Handler) -> None:
    with suppress(trio.ClosedResourceError):  # the node may leave first
        async with node.advertise(procedure, handler):
            await trio.sleep_forever()


@asynccontextmanager
async def a_node_that_drains(
    network: SimNetwork, nodes: list[macula.Node], knife: CancelAtStep
) -> AsyncGenerator[macula.Node, None]:
    """With a call that finishes meanwhile, and one that does not."""
    brief, endless = Handler(0.02), Handler(inf)
    async with (
        a_node(network, nodes) as node,
        node.advertise("sweep.brief", brief),
        node.advertise("sweep.endless", endless),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call, nodes[2], "sweep.endless")
        await endless.began.wait()
        nursery.start_soon(call, nodes[2], "sweep.brief")
        await brief.began.wait()
        knife.armed = True
        await node.drain(0.05)
        yield node


@asynccontextmanager
async def a_node_that_leaves_with_a_call(
    network: SimNetwork, nodes: list[macula.Node], knife: CancelAtStep
) -> AsyncGenerator[macula.Node, None]:
    """Its procedure is advertised outside its block, so that the end of the block waits for the call."""
    brief = Handler(0.02)
    async with trio.open_nursery() as nursery:
        async with a_node(network, nodes) as node:
            nursery.start_soon(advertise, node, "sweep.brief", brief)  # noqa: ASYNC111  # it outlives the block, and is to
            await trio.sleep(0.05)
            nursery.start_soon(call, nodes[2], "sweep.brief")
            await brief.began.wait()
            knife.armed = True
        yield node
        nursery.cancel_scope.cancel()


def under(knife: CancelAtStep, block: DrainBlock) -> Block:
    """A block that arms the knife itself."""
    return lambda network, nodes: block(network, nodes, knife)


async def run_once(
    block: Block, knife: CancelAtStep, network: SimNetwork, nodes: list[macula.Node], *, armed: bool = True
) -> CancelAtStep:
    """Run ``block`` once under the knife, and look what is left."""
    tasks, bound = lasting_tasks(), network.bound
    trio.lowlevel.add_instrument(knife)
    try:
        knife.armed = armed
        with knife.scope:
            async with block(network, nodes):
                pass
    finally:
        knife.armed = False
        trio.lowlevel.remove_instrument(knife)
    assert network.bound == bound, "a socket is left"
    await trio.sleep(0.2)  # virtual: withdrawals have run
    assert lasting_tasks() == tasks, "a task is left"
    for node in nodes:
        assert node.statistics().calls_running == 0, "a handler is left"
        assert [value for value in node.stored_values() if not value.withdrawn] == [], "a record is left"
        assert [peer for peer in node.peers() if peer.node_id == GUEST.node_id] == [], "a link is left"
    return knife


@pytest.mark.timeout(240)  # hundreds of runs
@pytest.mark.parametrize(
    "block",
    [
        a_provider,
        a_subscriber,
        *(
            pytest.param(block, marks=pytest.mark.long)
            for block in (
                a_subscriber_by_patterns,
                a_node_with_both,
                a_node_without_links,
                a_node_on_a_small_path,
            )
        ),
    ],
)
async def test_cancelled_at_any_step_nothing_is_left(block: Block, autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as nodes:
        await trio.sleep(2000)  # virtual: the early refreshes are over, the next is minutes away
        step = 1
        while (await run_once(block, CancelAtStep(step), network, nodes)).scope.cancel_called:
            step += 1
        assert step > 10, "too few steps for a sweep of anything"


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("block", [a_node_that_drains, a_node_that_leaves_with_a_call])
async def test_a_drain_that_is_cancelled_at_any_step_leaves_nothing(
    block: DrainBlock, autojump_clock: trio.testing.MockClock
) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as nodes:
        await trio.sleep(2000)  # as above
        step, knife = 0, CancelAtStep(1)
        while step == 0 or knife.scope.cancel_called:
            step += 1
            knife = CancelAtStep(step)
            await run_once(under(knife, block), knife, network, nodes, armed=False)
        assert step > 10, "too few steps for a sweep of anything"
