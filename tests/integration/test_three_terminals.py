"""`macula-trio node` in three terminals with nothing but --bootstrap between them; others use the mesh by name."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio

from macula_trio import Call, NodeConfig, open_node

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.processes

PROGRAM: Final = [sys.executable, "-m", "macula_trio"]
REALM: Final = "org.example.test"
PATIENCE_S: Final = 30


@attrs.define(eq=False)
class Terminal:
    """One process of the command line whose output is read as it comes."""

    process: trio.Process
    output: str = ""
    errors: str = ""
    _streams: int = 2
    _news: trio.Event = attrs.field(factory=trio.Event)

    async def read(self, which: str) -> None:
        """Collect a stream until its end."""
        stream = self.process.stdout if which == "output" else self.process.stderr
        assert stream is not None
        with suppress(trio.ClosedResourceError):
            async for chunk in stream:
                setattr(self, which, getattr(self, which) + chunk.decode())
                self._tell()
        self._streams -= 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def line(self, which: str = "output") -> str:
        """Wait for the first line."""
        while "\n" not in getattr(self, which):
            await self._news.wait()
        first: str = getattr(self, which).partition("\n")[0]
        return first

    async def exit_code(self) -> int:
        """Wait for the end of the process and of all that it wrote."""
        while self._streams:
            await self._news.wait()
        return await self.process.wait()

    async def signalled(self, number: signal.Signals) -> int:
        """Send a signal; give the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(5):
            return await self.exit_code()


@asynccontextmanager
async def open_terminal(*arguments: str) -> AsyncGenerator[Terminal, None]:
    """Run a command for the length of the block."""
    command = [*PROGRAM, *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    terminal = Terminal(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminal.read, "output")
            nursery.start_soon(terminal.read, "errors")
            yield terminal
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()


async def shell(*arguments: str) -> Any:
    """Run one command to its end; give the JSON object that it prints."""
    done = await trio.run_process([*PROGRAM, *arguments, "--json"], capture_stdout=True, capture_stderr=True)
    return json.loads(done.stdout)


@asynccontextmanager
async def open_nodes(count: int) -> AsyncGenerator[tuple[str, list[Terminal]], None]:
    """So many nodes that know nothing but the first; gives that one's endpoint."""
    listen = ["node", "--realm", REALM, "--listen", "127.0.0.1:0"]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_terminal(*listen, "--role", "bootstrap"))
        endpoint = ready_facts(await first.line())["endpoint"]
        others = [
            await stack.enter_async_context(open_terminal(*listen, "--bootstrap", endpoint)) for _ in range(count - 1)
        ]
        for other in others:
            await other.line()
        yield endpoint, [first, *others]


def ready_facts(line: str) -> dict[str, str]:
    """What a node says when it is ready."""
    ready, *facts = line.split(" ")
    assert ready == "ready"
    return dict(fact.split("=") for fact in facts)


async def add(call: Call) -> object:
    assert isinstance(call.args, dict)
    return call.args["a"] + call.args["b"]


async def test_calls_messages_and_the_dht_work_by_name_from_a_fourth_terminal() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_nodes(3) as (endpoint, nodes):
            session = ["--realm", REALM, "--bootstrap", endpoint]
            config = NodeConfig(realm=REALM, listen="127.0.0.1:0", bootstrap=(endpoint,))
            async with open_node(config) as provider, provider.advertise("test.add", add):
                ids = {provider.node_id.hex(), *[ready_facts(await node.line())["node_id"] for node in nodes]}
                called = await shell("call", "test.add", '{"a": 2, "b": 3}', *session)
                assert (called["result"], called["provider"], called["hops"]) == (5, provider.node_id.hex(), 1)

                async with open_terminal("subscribe", "test.topic", "--count", "1", *session) as subscriber:
                    assert await subscriber.line("errors") == "subscribed test.topic"
                    report = await shell("publish", "test.topic", '{"celsius": 23.5}', *session)
                    assert list(report["outcomes"].values()) == ["queued"]
                    assert await subscriber.exit_code() == 0
                    assert subscriber.output == 'test.topic {"celsius": 23.5}\n'

                stored = await shell("dht", "put", "test.note", "some text", *session)
                assert set(stored["stored"]) == ids
                found = await shell("dht", "get", "name:test.note", *session)
                assert [(value["owner"], value["metadata"]) for value in found["values"]] == [
                    (stored["owner"], {"value": "some text"})
                ]
                closest = await shell("dht", "find-node", "test.note", *session)
                assert {node["node_id"] for node in closest["nodes"]} == ids
                answered = await shell("ping", endpoint, "--realm", REALM, "--count", "2")
                assert (answered["endpoint"], len(answered["seconds"])) == (endpoint, 2)

            signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
            codes = [await node.signalled(number) for node, number in zip(nodes, signals, strict=True)]
            assert codes == [0, 0, 0]
            assert [node.errors for node in nodes] == ["", "", ""]


async def test_a_node_says_once_who_and_where_it_is() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_nodes(1) as (endpoint, (node,)):
            facts = ready_facts(await node.line())
            assert list(facts) == ["endpoint", "node_id", "realm", "role"]
            assert (facts["endpoint"], facts["realm"], facts["role"]) == (endpoint, REALM, "bootstrap")
            assert len(facts["node_id"]) == 64
            assert await node.signalled(signal.SIGINT) == 0
            assert node.output.count("\n") == 1


async def test_a_subscriber_that_is_interrupted_or_has_no_reader_ends_and_is_not_found_any_more() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_nodes(1) as (endpoint, _):
            subscribe = ["subscribe", "test.topic", "--realm", REALM, "--bootstrap", endpoint]
            async with open_terminal(*subscribe) as interrupted, open_terminal(*subscribe) as unread:
                await interrupted.line("errors")
                await unread.line("errors")
                assert await interrupted.signalled(signal.SIGINT) == 130
                assert unread.process.stdout is not None
                await unread.process.stdout.aclose()
                publish = ["publish", "test.topic", "1", "--realm", REALM, "--bootstrap", endpoint]
                assert list((await shell(*publish))["outcomes"].values()) == ["queued"]
                assert await unread.exit_code() == 1
                assert interrupted.errors == unread.errors == "subscribed test.topic\n"
            assert (await shell(*publish))["outcomes"] == {}
