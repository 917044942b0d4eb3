"""`macula-trio node` in three terminals with nothing but --bootstrap between them; others use the mesh by name."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
import trio
from terminals import Terminal, open_terminal, ready_facts, shell

from macula_trio import Call, NodeConfig, open_node

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

REALM: Final = "org.example.test"
PATIENCE_S: Final = 30


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

                async with open_terminal("subscribe", "test.*", "--count", "1", *session) as subscriber:
                    assert await subscriber.line("errors") == "subscribed test.*"
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
