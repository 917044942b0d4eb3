"""What tests of whole nodes have in common."""

from __future__ import annotations

import trio

import macula_trio as macula
from macula_trio import abc


async def add(call: macula.Call) -> object:
    assert isinstance(call.args, dict)
    return call.args["a"] + call.args["b"]


def watch(node: macula.Node, *names: str) -> list[macula.Event]:
    """The events of a node from now on; those with one of these names when there are any."""
    events: list[macula.Event] = []
    node._events.listen(lambda event: events.append(event) if not names or event.name in names else None)
    return events


async def first(events: macula.EventStream, name: str) -> macula.Event:
    """The next event with this name."""
    with trio.fail_after(5):
        async for event in events:
            if event.name == name:
                return event
    raise AssertionError(f"the stream of events has ended without {name}")


def link_between(one: macula.Node, other: macula.Node) -> abc.Link:
    link = one._registry.live_link(other.node_id)
    assert link is not None
    return link
