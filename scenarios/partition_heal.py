"""A mesh falls into two halves, goes on in both, and is one again after healing.

Values are stored by a quorum before and during the partition.  Checked: calls across the cut are not answered and
end by their deadline; calls within one half go on; after healing every value is found from everywhere
and calls across the former cut succeed.
"""

import trio

from macula_trio import Call, MeshError, Node, dht_key
from macula_trio.testing import World

DEADLINE_S = 3.0


async def where(call: Call) -> str:
    return call.caller.hex()


async def scenario(world: World) -> None:
    count = world.nodes(12, least=4)
    names = [f"node{number}" for number in range(count)]
    for name in names:
        await world.start(name)
    left, right = names[: count // 2], names[count // 2 :]
    for name in (left[0], right[0]):
        await world.store(name, dht_key(f"before.{name}"), {"from": name}, quorum=count // 2)
    async with (
        world.node(left[-1]).advertise("left.where", where),
        world.node(right[-1]).advertise("right.where", where),
    ):
        await answers(world, right[0], "left.where")
        world.partition(left, right)
        # Whoever is beyond the cut is silent, and given up after three keepalive intervals at the latest.
        for _ in range(4):
            await answers(world, right[0], "left.where", must=False)
            await trio.sleep(world.seconds(10))
        await answers(world, left[0], "left.where")
        await answers(world, right[0], "right.where")
        for name in (left[1], right[1]):
            await world.store(name, dht_key(f"during.{name}"), {"from": name}, quorum=count // 2)
        world.heal()
        await trio.sleep(90)  # the two halves meet by the bootstrap, which the far one dials again within a minute
        for name in names:
            await answers(world, name, "left.where")
            await answers(world, name, "right.where")
        await world.check_values()


async def answers(world: World, name: str, procedure: str, *, must: bool = True) -> None:
    """Call, and see that it ends in time; it may fail only where the network does."""
    started = trio.current_time()
    caller: Node = world.node(name)
    said: object = None
    error = "no answer in time"
    with trio.move_on_after(DEADLINE_S):
        try:
            said = await caller.call(procedure, None)
        except MeshError as exc:
            error = f"{type(exc).__name__}: {exc}"
    took_s = trio.current_time() - started
    world.check("a call ends by its deadline", took_s <= DEADLINE_S + 0.001, f"{procedure} from {name}: {took_s} s")
    if must:
        world.check("who can reach a provider is answered", said == caller.node_id.hex(), f"{name}: {error}")
    else:
        world.check("nobody is answered across the cut", said is None, f"{name} is told {said!r}")
