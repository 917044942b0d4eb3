"""A hundred nodes join one bootstrap at the same instant.

Checked: all of them join within their deadline, and a quarter of a minute later lookups from anywhere find the nodes
that are really the closest: the mesh is one, and nobody was drowned.
"""

import trio

from macula_trio import dht_key
from macula_trio.testing import World

K = 20
TARGETS = 5


async def scenario(world: World) -> None:
    world.summarise("link.", "node.joined", "node.started", "node.stopped", "dht.")
    count = world.nodes(100, least=3)
    await world.start("bootstrap")
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(join, world, f"node{number}")
    world.note("thunder.joined", nodes=count, seconds=round(trio.current_time() - started, 6))
    await trio.sleep(world.seconds(15))
    for number in range(TARGETS):
        target, name = dht_key(f"target {number}"), world.random.choice(world.running)
        closest = sorted(world.running, key=lambda other: world.node(other).node_id.distance(target))
        expected = [world.node(other).node_id for other in closest if other != name][:K]
        found = [contact.node_id for contact in await world.node(name).find_node(target)]
        missed = len(set(expected) - set(found))
        world.check("lookups find the closest of all nodes", not missed, f"{missed} of {len(expected)} are not found")
        world.note("thunder.looked_up", by=name, found=len(found))


async def join(world: World, name: str) -> None:
    node = await world.start(name)
    world.check("everybody joins within the deadline", bool(node.known_nodes()), f"{name} knows nobody")
