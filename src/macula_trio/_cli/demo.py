"""``macula-trio demo``: the main job at a glance, by five real processes (DESIGN section 2).

Everything that it prints was said by the nodes: what they know, what they hold, and their events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import click
import trio

from macula_trio import dht_key
from macula_trio._cli.demo_mesh import DemoMesh, DemoProcess, NodeFailed, open_demo_mesh
from macula_trio._cli.options import json_option
from macula_trio._cli.output import ID_DIGITS, count, json_text, milliseconds, print_json, say
from macula_trio._cli.runner import run

PROCEDURE: Final = "test.calculator.add"
ARGS: Final = {"a": 2, "b": 3}
TOPIC: Final = "test.messages"
PAYLOAD: Final = {"text": "hello from edge2"}
PROVIDER: Final = "edge3"
CALLER: Final = "edge2"
SUBSCRIBERS: Final = ("edge1", "edge3")


@click.command()
@json_option
def demo(*, as_json: bool) -> int:
    """Run five nodes in five processes, which call and publish.

    A bootstrap, a gateway and three edges on real UDP; each knows only where the bootstrap is. edge3 offers
    test.calculator.add and edge2 calls it; edge1 and edge3 subscribe to test.messages and edge2 publishes. The last
    line is `ok`.
    """
    running: list[DemoMesh] = []

    def hurry() -> None:
        for mesh in running:
            mesh.kill_all()

    async def work() -> int:
        teller = Teller(silent=as_json)

        def started(mesh: DemoMesh) -> None:
            running.append(mesh)
            teller.started(mesh)

        try:
            async with open_demo_mesh(on_started=started, on_ready=teller.ready) as mesh:
                report = await act(mesh, teller)
        except NodeFailed as exc:
            for line in exc.log:
                say(f"  {line}", stderr=True)
            raise click.ClickException(f"{exc}; the end of its log is above") from exc
        if as_json:
            print_json(report)
        if not report["ok"]:
            raise click.ClickException("the result or the deliveries are not what they must be")
        teller.say("ok")
        return 0

    return run(work, hurry=hurry)


@attrs.frozen
class Teller:
    """Says what happens when it happens."""

    silent: bool

    def say(self, text: str, *, bold: bool = False) -> None:
        """Write one line for people."""
        if not self.silent:
            say(text, bold=bold)

    def heading(self, text: str) -> None:
        """Write the title of a step."""
        self.say("")
        self.say(text, bold=True)

    def started(self, mesh: DemoMesh) -> None:
        """Name the processes."""
        self.say("Five processes on 127.0.0.1; each is told only where the bootstrap is", bold=True)
        self.say("  " + ", ".join(f"{node.name} (pid {node.pid})" for node in mesh.nodes.values()))

    def ready(self, node: DemoProcess) -> None:
        """Tell where a node is."""
        self.say(f"  {node.name:<10} {node.role:<10} {node.endpoint:<16} id {node.node_id[:ID_DIGITS]}")


async def act(mesh: DemoMesh, teller: Teller) -> dict[str, Any]:
    """Let everybody find everybody, offer and subscribe, call and publish; give the report for ``--json``.

    Raises:
      NodeFailed: a node is of no use.
    """
    await meet(mesh, teller)
    teller.heading("Offers and subscriptions go into the DHT")
    await mesh.request(PROVIDER, {"do": "advertise", "procedure": PROCEDURE})
    for name in SUBSCRIBERS:
        await mesh.request(name, {"do": "subscribe", "topic": TOPIC})
    dht = {name: await replicas(mesh, name) for name in (PROCEDURE, TOPIC)}
    for name, owners in ((PROCEDURE, PROVIDER), (TOPIC, " and ".join(SUBSCRIBERS))):
        teller.say(f"  {name} by {owners}: key {dht[name]['key'][:ID_DIGITS]}, held by")
        teller.say(f"    {', '.join(dht[name]['replicas'])}")
    rpc, pubsub = await call(mesh, teller), await publish(mesh, teller)
    teller.say("")
    return {
        "nodes": [
            {
                "name": node.name,
                "node_id": node.node_id,
                "endpoint": node.endpoint,
                "role": node.role,
                "pid": node.pid,
            }
            for node in mesh.nodes.values()
        ],
        "rpc": rpc,
        "pubsub": pubsub,
        "dht": dht,
        "ok": rpc["result"] == ARGS["a"] + ARGS["b"] and sorted(pubsub["delivered"]) == sorted(SUBSCRIBERS),
    }


async def meet(mesh: DemoMesh, teller: Teller) -> None:
    """Wait until every node knows all others."""
    teller.heading("They find each other")

    async def one(name: str) -> None:
        known = await mesh.request(name, {"do": "wait_known", "nodes": len(mesh.nodes) - 1})
        dialed = [mesh.name_of(node_id) for node_id, by_us in known.items() if by_us]
        met = [mesh.name_of(node_id) for node_id, by_us in known.items() if not by_us]
        ways = [f"{verb} {', '.join(sorted(names))}" for verb, names in (("dialed", dialed), ("met by", met)) if names]
        teller.say(f"  {name:<10} {'; '.join(ways)}")

    async with trio.open_nursery() as nursery:
        for name in mesh.nodes:
            nursery.start_soon(one, name)


async def replicas(mesh: DemoMesh, name: str) -> dict[str, Any]:
    """Ask each node whether it holds a value under the key of a name."""
    key = dht_key(name).hex()
    return {"key": key, "replicas": await mesh.holders(key)}


async def call(mesh: DemoMesh, teller: Teller) -> dict[str, Any]:
    """Let one edge call what another offers."""
    teller.heading(f"{CALLER} calls {PROCEDURE} with {json_text(ARGS)}")
    result = await mesh.request(CALLER, {"do": "call", "procedure": PROCEDURE, "args": ARGS})
    called = await mesh.wait_event(CALLER, "rpc.called", procedure=PROCEDURE)
    provider = mesh.name_of(called["provider"])
    teller.say(
        f"  = {json_text(result)}, by {provider} in {count(called['hops'], 'hop')}, {milliseconds(called['seconds'])}"
    )
    return {
        "procedure": PROCEDURE,
        "result": result,
        "provider": provider,
        "hops": called["hops"],
        "seconds": called["seconds"],
    }


async def publish(mesh: DemoMesh, teller: Teller) -> dict[str, Any]:
    """Let one edge publish, and wait until every subscriber says that it has the message."""
    teller.heading(f"{CALLER} publishes {json_text(PAYLOAD)} on {TOPIC}")
    await mesh.request(CALLER, {"do": "publish", "topic": TOPIC, "payload": PAYLOAD})
    published = await mesh.wait_event(CALLER, "pubsub.published", topic=TOPIC)
    delivered = []
    for name in SUBSCRIBERS:
        message: Mapping[str, Any] = await mesh.wait_event(name, "demo.message", topic=TOPIC)
        if message["payload"] == PAYLOAD and message["publisher"] == mesh.nodes[CALLER].node_id:
            delivered.append(name)
            teller.say(f"  {name} has it, straight from {mesh.name_of(message['publisher'])}")
    targets = sorted(mesh.name_of(node_id) for node_id in published["targets"])
    teller.say(
        f"  sent to {', '.join(targets)} in {count(published['hops'], 'hop')}, {milliseconds(published['seconds'])}"
    )
    return {
        "topic": TOPIC,
        "delivered": delivered,
        "hops": published["hops"],
        "seconds": published["seconds"],
    }
