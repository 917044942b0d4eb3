"""A caller's deadline holds, and ends the handler on the other side, and the calls that the handler made.

`slow.outer` on one node calls `slow.inner` on another, which never ends.  Checked: the caller gets control back at its
deadline; both handlers' scopes end within a round trip of it; a caller that is cancelled ends both likewise; so does
one that cannot be heard when its time is over, and one that has died; a caller with enough time gets its answer.
"""

import contextlib

import trio

from macula_trio import Call, MeshError, Node
from macula_trio.testing import LinkModel, World

LATENCY_S = 0.025
DEADLINE_S = 0.5
SILENCE_S = 31.0  # three keepalive intervals, after which a silent connection is gone, and a moment
SLACK_S = 4 * LATENCY_S  # there and on, with a tick of the clock in between


async def scenario(world: World) -> None:
    world.set_links(LinkModel(latency_s=LATENCY_S))
    caller, outer, inner = [await world.start(name) for name in ("caller", "outer", "inner")]
    ended: dict[str, float] = {}

    async def sleep(call: Call) -> str:
        try:
            await trio.sleep(call.args)
        finally:
            ended["inner"] = trio.current_time()
        return "slept"

    async def forward(call: Call) -> object:
        try:
            return await outer.call("slow.inner", call.args)
        finally:
            ended["outer"] = trio.current_time()

    async with inner.advertise("slow.inner", sleep), outer.advertise("slow.outer", forward):
        with trio.fail_after(10):
            said = await caller.call("slow.outer", 1.0)
        world.check("who waits long enough is answered", said == "slept", f"{said!r}")

        async def see(way: str, over_s: float, slack_s: float) -> None:
            await trio.sleep_until(over_s + slack_s)
            for name in ("outer", "inner"):
                late_s = ended.pop(name, float("inf")) - over_s
                world.check("the handler's scope ends with the caller's", late_s <= slack_s, f"{name}: {late_s} s late")
                world.note("slow.ended", handler=name, way=way, late_ms=round(late_s * 1000, 3))
            running = [node.statistics().calls_running for node in (outer, inner)]
            world.check("nothing runs on", running == [0, 0], f"{running}")

        ended.clear()
        over_s = await by_deadline(world, caller)
        await see("by deadline", over_s, SLACK_S)
        over_s = await by_cancellation(caller)
        await see("by cancellation", over_s, SLACK_S)
        # The deadline travels with the call: it needs no word from a caller who cannot be heard any more.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_deadline, world, caller)
            await trio.sleep(DEADLINE_S / 2)
            world.partition(["caller"], one_way=True)
            await see("by its own deadline", trio.current_time() + DEADLINE_S / 2, SLACK_S)
            world.heal()
        # And who is dead ends them, when his link is found dead.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_dead, caller)
            await trio.sleep(DEADLINE_S)
            world.crash("caller")
            await see("by death", trio.current_time(), SILENCE_S)


async def by_deadline(world: World, caller: Node) -> float:
    over_s = trio.current_time() + DEADLINE_S
    with trio.move_on_at(over_s):
        await caller.call("slow.outer", 3600)
    late_s = trio.current_time() - over_s
    world.check("the caller's deadline holds", abs(late_s) < 1e-6, f"{late_s} s late")
    return over_s


async def until_dead(caller: Node) -> None:
    with trio.move_on_after(120):
        with contextlib.suppress(MeshError):
            await caller.call("slow.outer", 3600)


async def by_cancellation(caller: Node) -> float:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "slow.outer", 3600)
        await trio.sleep(DEADLINE_S)
        nursery.cancel_scope.cancel()
    return trio.current_time()
