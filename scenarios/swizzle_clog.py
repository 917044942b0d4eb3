"""Swizzle-clogging: the links of a random half of the nodes stop one by one, and start again in another order.

FoundationDB's best fault.  Nothing is lost, everything is late.  Checked: calls end by their deadline, none is
answered twice and no message delivered twice when the held packets arrive all at once; afterwards everybody is
answered, and every value is found.
"""

import trio

from macula_trio import Call, MeshError, dht_key
from macula_trio.testing import World

DEADLINE_S = 2.0
ROUNDS = 3


async def echo(call: Call) -> object:
    return call.args


async def scenario(world: World) -> None:
    count = world.nodes(10, least=4)
    names = [f"node{number}" for number in range(count)]
    for name in names:
        await world.start(name)
    await world.store(names[0], dht_key("swizzle.value"), {}, quorum=count // 2)
    provider = world.node(names[1])
    async with provider.advertise("swizzle.echo", echo), provider.subscribe("swizzle.news"):
        for _ in range(ROUNDS):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(load, world, name)
                await swizzle(world, names, pause_s=world.seconds(1.5, least=0.1))
                nursery.cancel_scope.cancel()
        await trio.sleep(45)  # whoever took somebody for dead meets him again
        for name in names:
            with trio.fail_after(10):
                said = await world.node(name).call("swizzle.echo", name)
            world.check("afterwards everybody is answered", said == name, f"{name}: {said!r}")
        await world.check_values()


async def swizzle(world: World, names: list[str], *, pause_s: float) -> None:
    chosen = world.random.sample(names, len(names) // 2)
    for name in chosen:
        world.clog(name)
        await trio.sleep(pause_s * world.random.random())
    world.random.shuffle(chosen)
    for name in chosen:
        world.unclog(name)
        await trio.sleep(pause_s * world.random.random())


async def load(world: World, name: str) -> None:
    number = 0
    while True:
        number += 1
        started = trio.current_time()
        with trio.move_on_after(DEADLINE_S):
            try:
                await world.node(name).publish("swizzle.news", f"{name} {number}")
                await world.node(name).call("swizzle.echo", number)
            except MeshError:
                pass  # late is allowed here; twice is not
        took_s = trio.current_time() - started
        world.check("a call ends by its deadline", took_s <= DEADLINE_S + 0.001, f"{name}: {took_s} s")
        await trio.sleep(0.2)
