"""A value in a mesh of sixty nodes lies with the twenty that are closest to its key, all stored at once.

Checked: the replicas are exactly the k = 20 closest of all nodes by XOR distance, and they hold it; the fan-out takes
the time of one exchange and not of twenty; anybody finds the value.
"""

import trio

from macula_trio import dht_key
from macula_trio.testing import LinkModel, World

K = 20
LATENCY_S = 0.01


async def scenario(world: World) -> None:
    world.summarise("link.", "dht.value_received", "node.joined")
    world.set_links(LinkModel(latency_s=LATENCY_S))
    count = world.nodes(60, least=3)
    await world.start("node0")
    async with trio.open_nursery() as nursery:
        for number in range(1, count):
            nursery.start_soon(world.start, f"node{number}")
            await trio.sleep(0.1)
    await trio.sleep(world.seconds(15))  # neighbours look around in their first seconds
    for name in ("node1", f"node{count - 1}"):
        key = dht_key(f"fanout.{name}")
        started = trio.current_time()
        report = await world.store(name, key, {"from": name}, quorum=min(K, count))
        took_s = trio.current_time() - started
        closest = sorted(world.running, key=lambda other: world.node(other).node_id.distance(key))[:K]
        expected = sorted(world.node(other).node_id for other in closest)
        stored = sorted(report.stored)
        world.check("the k closest of all are the replicas", stored == expected, f"{len(stored)}, not {closest}")
        holders = {
            other for other in world.running if any(record.key == key for record in world.node(other).stored_values())
        }
        world.check("the replicas hold it", holders == set(closest), f"{sorted(holders)}")
        # A few rounds of lookup, with a dial here and there; twenty exchanges in a row would take 0.4 s alone.
        world.check("the fan-out is concurrent", took_s < 2 * K * LATENCY_S, f"{took_s:.3f} s")
        world.note("fanout.stored", by=name, replicas=closest, milliseconds=round(took_s * 1000, 3))
    await world.check_values()
