"""Nodes come, go in order and crash all the time, while everybody calls and publishes.

Three of the nodes that stay offer `churn.echo` and want `churn.news`; whoever comes offers `churn.shaky` while it
lasts.  Checked: a call ends by its deadline; one to those that stay fails only when its caller itself goes; no call is
answered twice, though many providers of `churn.shaky` die with calls under way; no message is delivered twice; whoever
leaves in order leaves nothing behind; in the end everybody finds every provider.
"""

from contextlib import AsyncExitStack

import trio

from macula_trio import Call, MeshError
from macula_trio.testing import World

DEADLINE_S = 5.0
PAUSE_S = 1.0
LOAD_PAUSE_S = 0.25


async def echo(call: Call) -> object:
    await trio.sleep(0.1)  # long enough to die under it now and then
    return call.args


async def scenario(world: World) -> None:
    world.summarise("link.", "dht.value_received", "pubsub.delivered")
    count = world.nodes(16, least=5)
    staying = [f"stay{number}" for number in range(4)]
    coming = [f"come{number}" for number in range(count - len(staying))]
    for name in staying + coming:
        await world.start(name)
    async with AsyncExitStack() as stack:
        for name in staying[1:]:
            await stack.enter_async_context(world.node(name).advertise("churn.echo", echo))
            await stack.enter_async_context(world.node(name).subscribe("churn.news"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, world)
            await churn(world, coming, nursery, until=trio.current_time() + world.seconds(60))
            nursery.cancel_scope.cancel()
        for name in coming:
            await world.restart(name)
        await trio.sleep(30)
        providers = sorted(world.node(name).node_id for name in staying[1:])
        for name in world.running:
            found = sorted(contact.node_id for contact in await world.node(name).find_providers("churn.echo"))
            world.check("after the churn every provider is found", found == providers, f"{name} finds {len(found)}")


async def churn(world: World, names: list[str], nursery: trio.Nursery, *, until: float) -> None:
    """Every second somebody leaves, crashes, or comes back."""
    while trio.current_time() < until:
        await trio.sleep(PAUSE_S)
        # Draw first, decide afterwards: what happens to one node does not shift the lot of the others.
        name, what = world.random.choice(names), world.random.random()
        if name not in world.running:
            await world.restart(name, keep_storage=what < 0.5)
            nursery.start_soon(offer, world, name)
        elif what < 0.5:
            world.crash(name)
        else:
            await world.stop(name)


async def offer(world: World, name: str) -> None:
    try:
        async with world.node(name).advertise("churn.shaky", echo):
            await trio.sleep_forever()
    except trio.ClosedResourceError:
        pass  # it went before it was known to anybody


async def load(world: World) -> None:
    """Call and publish from whoever runs."""
    number = 0
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(LOAD_PAUSE_S)
            number += 1
            nursery.start_soon(use, world, world.random.choice(world.running), number)


async def use(world: World, name: str, number: int) -> None:
    node = world.node(name)
    for procedure in ("churn.echo", "churn.shaky"):
        started = trio.current_time()
        said: object = None
        error = "no answer in time"
        with trio.move_on_after(DEADLINE_S):
            try:
                await node.publish("churn.news", f"{number} {procedure}")
                said = await node.call(procedure, number)
            except (MeshError, trio.ClosedResourceError) as exc:
                error = f"{type(exc).__name__}: {exc}"
        took_s = trio.current_time() - started
        world.check("a call ends by its deadline", took_s <= DEADLINE_S + 0.001, f"{took_s} s")
        if name not in world.running or world.node(name) is not node:
            return  # the caller itself has gone under way
        if procedure == "churn.echo":
            world.check("calls to those that stay succeed", said == number, f"{name}: {said!r}, {error}")
