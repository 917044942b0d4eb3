"""The five processes of the cases of v0.8, and what both of its suites ask of them."""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

import macula_trio as macula
from macula_trio._cli.demo_mesh import REALM, ROLES, DemoMesh, open_demo_mesh
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.abc import Message

NODE: Final = str(Path(__file__).with_name("v08_node.py"))
EDGES: Final = ("edge1", "edge2", "edge3")
PATIENCE_S: Final = 30.0

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=Message)


class Mesh:
    """Five nodes in processes, kept by a thread for all cases of a module."""

    def __init__(self) -> None:
        self._up: queue.SimpleQueue[tuple[DemoMesh, trio.lowlevel.TrioToken] | None] = queue.SimpleQueue()
        self._scope = trio.CancelScope()
        self._executor = ThreadPoolExecutor(1)
        self._run = self._executor.submit(trio.run, self._keep)
        self._run.add_done_callback(lambda _run: self._up.put(None))
        up = self._up.get()
        if up is None:
            self._run.result()
            raise AssertionError("the nodes have ended before the first case")
        self._demo, self._token = up

    async def _keep(self) -> None:
        with self._scope:
            async with open_demo_mesh(program=(NODE,), health=True) as demo:
                for name in ROLES:
                    await demo.request(name, {"do": "wait_known", "nodes": len(ROLES) - 1})
                self._up.put((demo, trio.lowlevel.current_trio_token()))
                await trio.sleep_forever()

    def run(self, case: Callable[[DemoMesh], Awaitable[T]]) -> T:
        """Run a case where the processes are spoken to."""

        async def bounded() -> T:
            with trio.fail_after(PATIENCE_S):
                return await case(self._demo)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def stop(self) -> None:
        """End the processes; raises what has ended them before."""
        if not self._run.done():
            self._token.run_sync_soon(self._scope.cancel)
        self._executor.shutdown()
        self._run.result()


@contextmanager
def a_mesh() -> Iterator[Mesh]:
    mesh = Mesh()
    try:
        yield mesh
    finally:
        mesh.stop()


# -- over the wire --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def outsider(mesh: DemoMesh) -> AsyncGenerator[macula.Node, None]:
    """A sixth node, which is in nobody's table and holds nothing."""
    config = macula.NodeConfig(
        realm=REALM,
        listen="127.0.0.1:0",
        bootstrap=[mesh.nodes["bootstrap"].endpoint],
        leaf=True,
        require_bootstrap=True,
    )
    async with macula.open_node(config) as node:
        yield node


def contact(mesh: DemoMesh, name: str) -> macula.Contact:
    node = mesh.nodes[name]
    return macula.Contact(node_id=macula.NodeId.from_hex(node.node_id), endpoint=node.endpoint)


async def ask(node: macula.Node, target: macula.Contact, question: Message, answer: type[AnswerT]) -> AnswerT:
    link = await node._transport.link_to(target)
    return await link.ask(question, answer)


async def holders(mesh: DemoMesh, key: bytes, kind: str) -> dict[str, list[str]]:
    """Which owners' values each node holds under a key, by name, as it says itself over the wire."""
    found = {}
    async with outsider(mesh) as node:
        for number, name in enumerate(ROLES):
            query = wire.FindValue(key=key, kind=kind, correlation_id=bytes([number]) * 16)
            reply = await ask(node, contact(mesh, name), query, wire.FindValueReply)
            owners = [value["node_id"] for value in reply.value]
            found[name] = sorted(mesh.name_of(owner.hex()) for owner in owners if isinstance(owner, bytes))
    return found


def get(endpoint: str, path: str) -> tuple[int, Any]:
    """Status and JSON of a health endpoint."""
    connection = http.client.HTTPConnection(*parse_endpoint(endpoint), timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


# -- cases of both suites -------------------------------------------------------------------------------------------


async def is_healthy(mesh: DemoMesh, *names: str) -> None:
    """A node answers a PING and says of itself, after it has called itself, that it is well and ready."""
    async with outsider(mesh) as node:
        for name in names:
            assert await node.ping(contact(mesh, name)) > 0
            health = mesh.nodes[name].health
            status, body = await trio.to_thread.run_sync(get, health, "/health")
            assert (status, body["status"]) == (200, "healthy"), body
            status, body = await trio.to_thread.run_sync(get, health, "/ready")
            assert (status, body["status"]) == (200, "ready"), body


async def peers_are_discovered(mesh: DemoMesh) -> None:
    """Every node's table holds the four others, though each was told the bootstrap's endpoint only."""
    for name in ROLES:
        known = await mesh.request(name, {"do": "wait_known", "nodes": len(ROLES) - 1})
        assert {mesh.name_of(node_id) for node_id in known} == set(ROLES) - {name}


@asynccontextmanager
async def links_refused(mesh: DemoMesh, name: str, shut_out: str) -> AsyncGenerator[None, None]:
    """Let a node refuse the links of another one, as long as the block lasts."""
    let_in = [node.node_id for node in mesh.nodes.values() if node.name not in (name, shut_out)]
    await mesh.request(name, {"do": "accept_links_of", "node_ids": let_in})
    try:
        yield
    finally:
        with trio.move_on_after(PATIENCE_S, shield=True):
            await mesh.request(name, {"do": "accept_links_of", "node_ids": []})


async def counts(mesh: DemoMesh) -> dict[str, dict[str, int]]:
    return {name: await mesh.request(name, {"do": "count"}) for name in ROLES}
