"""Five nodes in five processes: started, spoken to, killed, and always ended (DESIGN section 2, ``demo``).

A process that nobody killed and that ends, does not come up or does not answer in time ends the block with `NodeFailed`
and the end of its log; nobody waits for it.  A node learns the bootstrap's endpoint and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

REALM: Final = "org.example.demo"
BOOTSTRAP: Final = "bootstrap"
PROGRAM: Final = ("-m", "macula_trio._cli.demo_node")
ROLES: Final = {BOOTSTRAP: "bootstrap", "gateway": "gateway", "edge1": "edge", "edge2": "edge", "edge3": "edge"}

START_DEADLINE_S: Final = 10.0  # an interpreter with its imports takes less than one on an idle machine
REQUEST_DEADLINE_S: Final = 10.0  # twice what the library gives a call
EXIT_DEADLINE_S: Final = 3.0  # a node that leaves takes NodeConfig.close_deadline_s, 1 s
EVENTS_MAX: Final = 10_000  # kept of what the nodes tell; the demo makes some hundred
LOG_LINES: Final = 20  # of a log are shown

Event = tuple[str, str, Mapping[str, Any]]
"""Name of the node, name of the event, facts."""


class NodeFailed(Exception):
    """A process of the demo is of no use any more; ``log`` has the last lines that it wrote to stderr."""

    def __init__(self, message: str, *, log: list[str]) -> None:
        super().__init__(message)
        self.log = log


@attrs.define(eq=False)
class DemoProcess:
    """One process, and what it said of itself when it was ready.

    Attributes:
      health: where it answers ``/health`` and ``/ready``, as ``HOST:PORT``; None without the option.
    """

    name: str
    role: str
    log: Path
    process: trio.Process
    endpoint: str = ""
    node_id: str = ""
    health: str | None = None
    killed: bool = False
    _ready: trio.Event = attrs.field(factory=trio.Event)
    _answers: dict[int, trio.MemorySendChannel[Mapping[str, Any]]] = attrs.field(factory=dict)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def failed(self, what: str) -> NodeFailed:
        """Complain, with the end of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return NodeFailed(f"{self.name} {what}", log=lines or [f"(the log of {self.name} is empty)"])


class DemoMesh:
    """The processes by name; made by `open_demo_mesh`."""

    def __init__(self, on_event: Callable[[str, str, Mapping[str, Any]], None] | None) -> None:
        self.nodes: dict[str, DemoProcess] = {}
        self._on_event = on_event
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._news = trio.Event()
        self._request_id = 0

    def name_of(self, node_id: str) -> str:
        """Name of a node; its id when it is none of ours."""
        return next((node.name for node in self.nodes.values() if node.node_id == node_id), node_id)

    async def request(self, name: str, request: Mapping[str, object]) -> Any:
        """Let a node do something (``do`` names a method of `macula_trio._cli.demo_node.DemoNode`); give the result.

        Raises:
          NodeFailed: it did not answer in time, or answered with an error.
        """
        node = self.nodes[name]
        self._request_id += 1
        send, receive = trio.open_memory_channel[Mapping[str, Any]](1)
        request_id = self._request_id
        node._answers[request_id] = send
        answer: Mapping[str, Any] = {"error": f"no answer within {REQUEST_DEADLINE_S:g} s"}
        try:
            with trio.move_on_after(REQUEST_DEADLINE_S):
                await _write(node.process, {**request, "id": request_id})
                answer = await receive.receive()
        finally:
            del node._answers[request_id]
            send.close()
            receive.close()
        if "error" in answer:
            raise node.failed(f"failed to {request['do']}: {answer['error']}")
        return answer["result"]

    async def wait_event(self, name: str, event: str, **facts: object) -> Mapping[str, Any]:
        """Wait for an event of a node with these facts, or find it among the past ones; give all its facts.

        Raises:
          NodeFailed: it did not come in time.
        """
        with trio.move_on_after(REQUEST_DEADLINE_S):
            while True:
                for happened in self._events:
                    if happened[:2] == (name, event) and facts.items() <= happened[2].items():
                        return happened[2]
                await self._news.wait()
        raise self.nodes[name].failed(f"did not tell {event} within {REQUEST_DEADLINE_S:g} s")

    def past_events(self) -> list[Event]:
        """What the nodes have told so far, the last `EVENTS_MAX`."""
        return list(self._events)

    async def holders(self, key: str) -> list[str]:
        """Ask all nodes that were not killed which of them hold a value under a hexadecimal DHT key.

        Raises:
          NodeFailed: one did not answer in time.
        """
        names = [name for name, node in self.nodes.items() if not node.killed]
        holds = dict.fromkeys(names, False)

        async def ask(name: str) -> None:
            holds[name] = await self.request(name, {"do": "holds", "key": key})

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(ask, name)
        return [name for name in names if holds[name]]

    def kill(self, name: str) -> None:
        """End a process as a crash would: it says goodbye to nobody."""
        self.nodes[name].killed = True
        self.nodes[name].process.kill()

    def kill_all(self) -> None:
        """End every process at once; each is waited for where it is ended in order."""
        for node in self.nodes.values():
            node.process.kill()

    async def _listen(self, node: DemoProcess) -> None:
        """Read what a process writes, to its end."""
        assert node.process.stdout is not None
        rest = b""
        async for chunk in node.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(node, json.loads(line))
        await _close_pipes(node.process)
        if not node.killed:
            with trio.move_on_after(EXIT_DEADLINE_S):
                await node.process.wait()
            raise node.failed(f"ended unexpectedly, exit code {node.process.returncode}")

    def _take(self, node: DemoProcess, line: Mapping[str, Any]) -> None:
        if "ready" in line:
            node.endpoint, node.node_id = line["ready"]["endpoint"], line["ready"]["node_id"]
            node.health = line["ready"].get("health")
            node._ready.set()
        elif "event" in line:
            self._events.append((node.name, line["event"], line["facts"]))
            self._news.set()
            self._news = trio.Event()
            if self._on_event is not None:
                self._on_event(node.name, line["event"], line["facts"])
        elif line["id"] in node._answers:  # else nobody waits any more
            node._answers[line["id"]].send_nowait(line)


@asynccontextmanager
async def open_demo_mesh(
    *,
    health: bool = False,
    on_started: Callable[[DemoMesh], None] | None = None,
    on_ready: Callable[[DemoProcess], None] | None = None,
    on_event: Callable[[str, str, Mapping[str, Any]], None] | None = None,
    program: Sequence[str] = PROGRAM,
) -> AsyncGenerator[DemoMesh, None]:
    """Run the five processes for the length of the block.

    Entering returns when all have joined by the bootstrap.  Leaving closes their stdin, which they obey, and kills who
    does not within 3 s; none is left, also when the block is cancelled.  When this process is killed they end as well.

    Args:
      health: give every node a health endpoint on loopback, too, which wants the extra ``http``.
      on_started: called once, when all processes run and before any is ready.
      on_ready: called for every node that is ready.
      on_event: called with the name of the node, the name of the event and its facts.
      program: arguments of the interpreter that run a node; it gets its name as one more.

    Raises:
      NodeFailed: a process is of no use.
    """
    failure: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="macula-trio-demo-", ignore_cleanup_errors=True) as logs:
        try:
            async with trio.open_nursery() as nursery:
                mesh = DemoMesh(on_event)
                for name, role in ROLES.items():
                    node = await _start(nursery, program, name, role, Path(logs) / f"{name}.log")
                    mesh.nodes[name] = node
                    nursery.start_soon(mesh._listen, node)
                if on_started is not None:
                    on_started(mesh)
                await _configure(mesh, on_ready, health=health)
                yield mesh
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # of the nursery, which is nobody's concern; raised below
            failure = _sole_leaf(group)
    if failure is not None:
        raise failure  # outside of ``except``: no group in its context


async def _start(nursery: trio.Nursery, program: Sequence[str], name: str, role: str, log: Path) -> DemoProcess:
    # A module in the current directory must not take the place of one of ours, unless that is where we come from.
    safe = [] if sys.path[0] in ("", str(Path.cwd())) else ["-P"]
    command = [sys.executable, *safe, *program, name]
    with log.open("wb") as stderr:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                check=False,
                deliver_cancel=_end,
                start_new_session=True,  # Ctrl-C on the terminal is for the parent, which ends them in order
            )
        )
    return DemoProcess(name=name, role=role, log=log, process=process)


async def _configure(mesh: DemoMesh, on_ready: Callable[[DemoProcess], None] | None, *, health: bool) -> None:
    """Tell the processes what they are: the bootstrap first, then the others, which learn where it listens."""

    async def one(node: DemoProcess, bootstrap: list[str]) -> None:
        config: dict[str, object] = {
            "realm": REALM,
            "role": node.role,
            "listen": "127.0.0.1:0",
            "bootstrap": bootstrap,
        }
        if health:
            config["health"] = "127.0.0.1:0"
        with trio.move_on_after(START_DEADLINE_S) as deadline:
            await _write(node.process, config)
            await node._ready.wait()
        if deadline.cancelled_caught:
            raise node.failed(f"did not come up within {START_DEADLINE_S:g} s")
        if on_ready is not None:
            on_ready(node)

    first = mesh.nodes[BOOTSTRAP]
    await one(first, [])
    async with trio.open_nursery() as nursery:
        for node in mesh.nodes.values():
            if node is not first:
                nursery.start_soon(one, node, [first.endpoint])


async def _write(process: trio.Process, line: Mapping[str, object]) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send_all(json.dumps(line).encode() + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.sleep_forever()  # it is dead; who reads its stdout notices, and cancels us


async def _end(process: trio.Process) -> None:
    """End a process: kindly, then surely."""
    assert process.stdin is not None
    await process.stdin.aclose()
    with trio.move_on_after(EXIT_DEADLINE_S) as patience:
        await process.wait()
    if patience.cancelled_caught:
        process.kill()
    await _close_pipes(process)


async def _close_pipes(process: trio.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.aclose()
    await process.stdout.aclose()


def _sole_leaf(error: BaseException) -> BaseException:
    """The one exception to raise; of several failed processes the first says why."""
    if isinstance(error, BaseExceptionGroup):
        failed = error.subgroup(NodeFailed)
        if failed is not None or len(error.exceptions) == 1:
            return _sole_leaf((failed or error).exceptions[0])
    return error
