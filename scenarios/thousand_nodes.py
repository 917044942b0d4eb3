"""A thousand nodes, frame by frame: lookups stay short and right while one in ten dies.

On the frame-level network, without QUIC and TLS; the DHT is the real one.  Every node looks up the same fixed number of
keys.  Checked: nearly all of the twenty really closest nodes are found, values stored with twenty replicas are found by
everybody who asks, also after a tenth of the mesh has crashed at one instant.
"""

import trio

from macula_trio import dht_key
from macula_trio.testing import FrameNode, World, open_frame_mesh

K = 20
LOOKUPS_PER_NODE = 1
AT_ONCE = 50
VALUES = 20
FOUND_SHARE_MIN = 0.95  # of the really closest, on the average: a node may not know yet who came just now


async def scenario(world: World) -> None:
    count = world.nodes(1000, least=10)
    async with open_frame_mesh(count, network=world.frames) as nodes:
        world.note("thousand.joined", nodes=len(nodes))
        await lookups(world, nodes)
        keys = [dht_key(f"value {number}") for number in range(VALUES)]
        for key in keys:
            report = await world.random.choice(nodes).store(key, {}, quorum=min(K, count) // 2)
            world.check("a value has twenty replicas", len(report.stored) == min(K, count), f"{len(report.stored)}")
        await find(world, nodes, keys)
        crashed = world.random.sample(nodes[1:], count // 10)
        for node in crashed:
            node.crash()
        world.note("thousand.crashed", nodes=len(crashed))
        await find(world, [node for node in nodes if node not in crashed], keys)
    statistics = world.frames.statistics()
    world.note("thousand.counted", frames=statistics.frames)


async def lookups(world: World, nodes: list[FrameNode]) -> None:
    """Every node looks up so many keys; fifty lookups at once."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    shares: list[float] = []

    async def look_up(node: FrameNode, target: bytes) -> None:
        async with limiter:
            found = {contact.node_id for contact in await node.find_node(target)}
        others = (other.node_id for other in nodes if other is not node)
        closest = sorted(others, key=lambda node_id: node_id.distance(target))[:K]
        shares.append(sum(node_id in found for node_id in closest) / len(closest))

    async with trio.open_nursery() as nursery:
        for number, node in enumerate(nodes):
            for lookup in range(LOOKUPS_PER_NODE):
                nursery.start_soon(look_up, node, dht_key(f"target {number} {lookup}"))
    share = sum(shares) / len(shares)
    world.check("lookups find the closest of all nodes", share >= FOUND_SHARE_MIN, f"{share:.3f} of them")
    world.note("thousand.looked_up", lookups=len(shares), found=round(share, 4), worst=round(min(shares), 4))


async def find(world: World, nodes: list[FrameNode], keys: list[bytes]) -> None:
    """Each value is looked up from three nodes."""
    for key in keys:
        for node in world.random.sample(nodes, 3):
            found = await node.find_value(key)
            world.check("values are found from anywhere", len(found) == 1, f"{len(found)} from {node.name}")
