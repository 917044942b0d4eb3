"""A provider and replicas crash and come back, with and without what they had stored.

Checked: calls to the dead provider end by their deadline; started anew it is found and answers under its old name; a
value outlives crashes of the replicas that keep their storage, all of them at once, and of some that lose it.
"""

import trio

from macula_trio import Call, MeshError, Record, dht_key
from macula_trio.testing import World

DEADLINE_S = 3.0
KEY = dht_key("crash.value")


async def echo(call: Call) -> object:
    return call.args


async def scenario(world: World) -> None:
    count = world.nodes(8, least=4)
    names = [f"node{number}" for number in range(count)]
    for name in names:
        await world.start(name)
    await world.store(names[1], KEY, {"answer": 42}, quorum=count - 1)

    async with world.node(names[2]).advertise("crash.echo", echo):
        await call(world, names[3], must=True)
        world.crash(names[2])
        for _ in range(3):
            await call(world, names[3], must=False)
            await trio.sleep(world.seconds(10))
    await world.restart(names[2])
    async with world.node(names[2]).advertise("crash.echo", echo):
        await trio.sleep(10)
        await call(world, names[3], must=True)

    # Everybody but the bootstrap at once, as when the power fails; nobody has memory but on his disk.
    for name in names[1:]:
        world.crash(name)
    await trio.sleep(5)
    for name in names[1:]:
        await world.restart(name, keep_storage=True)
    await world.check_values()
    held = [name for name in names if holds(world.node(name).stored_values())]
    world.check("values outlive a crash with storage", len(held) == count, f"held by {held}")

    for name in names[2 : 2 + count // 2]:
        world.crash(name)
        await world.restart(name, keep_storage=False)
    await trio.sleep(10)
    await world.check_values()


def holds(values: list[Record]) -> bool:
    return any(record.key == KEY for record in values)


async def call(world: World, name: str, *, must: bool) -> None:
    started = trio.current_time()
    said: object = None
    error = "no answer in time"
    with trio.move_on_after(DEADLINE_S):
        try:
            said = await world.node(name).call("crash.echo", "hello")
        except MeshError as exc:
            error = f"{type(exc).__name__}: {exc}"
    took_s = trio.current_time() - started
    world.check("a call ends by its deadline", took_s <= DEADLINE_S + 0.001, f"{took_s} s")
    if must:
        world.check("who can reach a provider is answered", said == "hello", error)
