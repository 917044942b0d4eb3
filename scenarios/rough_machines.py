"""Clocks are wrong, a laptop moves to another address, a line is narrow: everybody still gets what he asks for.

Checked: nodes whose clocks are half a minute apart store and find each other's values; calls over a link that the
moved machine had dialed go on over that very link; a large call takes the time that a narrow line needs, and not much
more; what is advertised is still found after the time that a value lives, and what was stored once is not.
"""

import trio

from macula_trio import Call, Node, dht_key
from macula_trio.testing import LinkModel, World

SKEW_MS = 30_000
NARROW = LinkModel(latency_s=0.02, bandwidth_bytes_per_s=20_000)
BYTES = 60_000
TTL_S = 300.0  # of values, as `NodeConfig` has it


async def size(call: Call) -> int:
    return len(call.args)


async def scenario(world: World) -> None:
    for name in ("server", "laptop", "ahead", "behind"):
        await world.start(name)
    server, laptop = world.node("server"), world.node("laptop")
    world.skew("ahead", SKEW_MS)
    world.skew("behind", -SKEW_MS)
    async with server.advertise("rough.size", size):
        for name in ("ahead", "behind"):
            await world.store(name, dht_key(f"rough.{name}"), {}, quorum=4)
        await world.check_values()

        await call(world, laptop, 10)
        dials = laptop.statistics().frames_sent["CONNECT"]
        world.change_address("laptop", "10.99.0.1")
        for _ in range(3):
            await trio.sleep(1)
            await call(world, laptop, 10)
        world.check("a link moves with its machine", laptop.statistics().frames_sent["CONNECT"] == dials)

        world.set_links(NARROW, "ahead", "server")
        took_s = await call(world, world.node("ahead"), BYTES)
        ideal_s = BYTES / NARROW.bandwidth_bytes_per_s
        world.check("a narrow line is narrow, and used", ideal_s <= took_s < 1.5 * ideal_s, f"{took_s:.3f} s")
        world.note("rough.narrow", bytes=BYTES, milliseconds=round(took_s * 1000, 3))

        await trio.sleep(TTL_S + 2 * SKEW_MS / 1000)
        found = [contact.node_id for contact in await laptop.find_providers("rough.size")]
        world.check("what is advertised is renewed", found == [server.node_id], f"{len(found)} are found")
        found = [record.node_id for record in await laptop.find_value(dht_key("rough.ahead"))]
        world.check("what was stored once has expired", not found, f"{len(found)} are found")


async def call(world: World, caller: Node, length: int) -> float:
    started = trio.current_time()
    with trio.fail_after(20):
        counted = await caller.call("rough.size", bytes(length))
    world.check("every call gets its own answer", counted == length, f"{counted} of {length}")
    return trio.current_time() - started
