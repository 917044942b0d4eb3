"""A thousand nodes, frame by frame: every one looks up a key, and lookups stay short and right.

On the frame-level network, without QUIC and TLS; the DHT is the real one.  Checked: lookups find the twenty closest of
all nodes; a value gets twenty replicas, which are the closest, and is found from anywhere.
"""

import hashlib

import trio

from macula_trio import NodeId, dht_key
from macula_trio.testing import FrameNode, World, open_frame_mesh

K = 20
LOOKUPS_PER_NODE = 1
AT_ONCE = 100
VALUES = 20
ASKERS = 5
FOUND_SHARE_MIN = 0.99  # of the really closest, on the average; all have joined in the last second


async def scenario(world: World) -> None:
    world.summarise("fault.crash")  # how the nodes vanish when their block is left
    count = world.nodes(1000, least=2)
    async with open_frame_mesh(count, network=world.frames) as nodes:
        world.note("thousand.joined", nodes=len(nodes))
        await lookups(world, nodes)
        await values(world, nodes)
    world.note("thousand.counted", frames=world.frames.statistics().frames)


def closest(nodes: list[FrameNode], target: bytes) -> list[NodeId]:
    return sorted((node.node_id for node in nodes), key=lambda node_id: node_id.distance(target))[:K]


async def lookups(world: World, nodes: list[FrameNode]) -> None:
    limiter = trio.CapacityLimiter(AT_ONCE)
    shares: list[float] = []
    digest = hashlib.sha256()

    async def look_up(node: FrameNode, target: bytes) -> None:
        async with limiter:
            found = [contact.node_id for contact in await node.find_node(target)]
        digest.update(b"".join(found))
        expected = closest([other for other in nodes if other is not node], target)
        shares.append(sum(node_id in found for node_id in expected) / len(expected))

    async with trio.open_nursery() as nursery:
        for number, node in enumerate(nodes):
            for lookup in range(LOOKUPS_PER_NODE):
                nursery.start_soon(look_up, node, dht_key(f"target {number} {lookup}"))
    share = sum(shares) / len(shares)
    world.note("thousand.looked_up", lookups=len(shares), found=round(share, 4), digest=digest.hexdigest()[:16])
    world.check("lookups find the closest of all nodes", share >= FOUND_SHARE_MIN, f"{share:.3f} of them")


async def values(world: World, nodes: list[FrameNode]) -> None:
    async def store_and_find(key: bytes, owner: FrameNode, askers: list[FrameNode]) -> None:
        report = await owner.store(key, {})
        world.check("the closest of all are the replicas", sorted(report.stored) == sorted(closest(nodes, key)))
        for asker in askers:
            found = [record.node_id for record in await asker.find_value(key)]
            world.check("a value is found from anywhere", found == [owner.node_id], f"{found} by {asker.name}")

    async with trio.open_nursery() as nursery:
        for number in range(VALUES):
            key, owner = dht_key(f"value {number}"), world.random.choice(nodes)
            nursery.start_soon(store_and_find, key, owner, world.random.sample(nodes, min(ASKERS, len(nodes))))
