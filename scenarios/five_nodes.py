"""Five nodes of v0.8's topology find each other, call and publish.

edge3 offers `test.calculator.add`, edge1 and edge3 want `test.messages`; edge2 knows of neither and reaches both.
Checked: sums are right, each of many calls made at one instant gets its own answer, every subscriber gets every
message once and in order, and after the blocks are left nobody offers or wants anything any more.
"""

import trio

from macula_trio import Call, Node, NoProviders, Outcome, Subscription
from macula_trio.testing import World

MESSAGES = 10
CALLS = 40


async def add(call: Call) -> int:
    return call.args["a"] + call.args["b"]


async def scenario(world: World) -> None:
    await world.start("bootstrap")
    await world.start("gateway", role="gateway")
    edge1, edge2, edge3 = [await world.start(f"edge{number}") for number in (1, 2, 3)]
    async with edge3.advertise("test.calculator.add", add):
        await calls(world, edge2)
    async with edge1.subscribe("test.messages") as one, edge3.subscribe("test.messages") as three:
        await messages(world, edge2, [one, three])
    await trio.sleep(5)  # withdrawals run behind the scenes, and "nobody" is remembered for no longer than this
    try:
        await edge1.call("test.calculator.add", {"a": 1, "b": 1})
    except NoProviders:
        found = False
    else:
        found = True
    world.check("what was withdrawn is not found", not found)
    world.check("what was withdrawn is not found", await edge2.find_subscribers("test.messages") == [])


async def calls(world: World, caller: Node) -> None:
    async def one(number: int) -> None:
        total = await caller.call("test.calculator.add", {"a": number, "b": 1})
        world.check("every call gets its own answer", total == number + 1, f"{number} + 1 is {total!r}")

    with trio.fail_after(5):
        await one(-1)
        async with trio.open_nursery() as nursery:  # all at one instant, over one link
            for number in range(CALLS):
                nursery.start_soon(one, number)


async def messages(world: World, publisher: Node, subscriptions: list[Subscription]) -> None:
    with trio.fail_after(5):
        for number in range(MESSAGES):
            report = await publisher.publish("test.messages", {"number": number})
            queued = report.having(Outcome.QUEUED)
            world.check("a message goes to every subscriber", len(queued) == len(subscriptions), f"{queued}")
        for subscription in subscriptions:
            numbers = [(await subscription.receive()).payload["number"] for _ in range(MESSAGES)]
            world.check("messages arrive in order", numbers == list(range(MESSAGES)), f"{numbers}")
