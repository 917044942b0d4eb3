"""One datagram in five is lost, some come twice, late or out of order, and everything still works.

Checked: all nodes join, every call is answered rightly within its deadline, a link loses and repeats no message, and
what a quorum stored is found.
"""

import trio

from macula_trio import Call, dht_key
from macula_trio.testing import LinkModel, World

LOSSY = LinkModel(latency_s=0.02, jitter_s=0.01, loss=0.2, duplication=0.05, reordering=0.05, reordering_delay_s=0.03)
CALLS = 20
MESSAGES = 20


async def echo(call: Call) -> object:
    return call.args


async def scenario(world: World) -> None:
    world.set_links(LOSSY)
    count = world.nodes(8, least=3)
    # Longer patience than by default: at this loss a handshake takes seconds now and then.
    patience = {"join_deadline_s": 30.0, "dial_deadline_s": 15.0, "query_deadline_s": 10.0}
    for number in range(count):
        await world.start(f"node{number}", **patience)
    provider, caller = world.node("node1"), world.node(f"node{count - 1}")
    async with provider.advertise("lossy.echo", echo), provider.subscribe("lossy.news") as news:

        async def call(number: int) -> None:
            with trio.fail_after(30):
                said = await caller.call("lossy.echo", {"number": number, "padding": "x" * 2000})
            world.check("every call gets its own answer", said == {"number": number, "padding": "x" * 2000}, f"{said}")

        async with trio.open_nursery() as nursery:
            for number in range(CALLS):
                nursery.start_soon(call, number)
        for number in range(MESSAGES):
            await caller.publish("lossy.news", number)
        with trio.fail_after(30):
            numbers = [(await news.receive()).payload for _ in range(MESSAGES)]
        world.check("messages arrive in order, none is lost", numbers == list(range(MESSAGES)), f"{numbers}")
        # A lookup does not wait long for the last answers, so a replica or two may be missed at this loss.
        await world.store("node0", dht_key("lossy.value"), {}, quorum=count // 2)
        await trio.sleep(world.seconds(20))
        await world.check_values()
