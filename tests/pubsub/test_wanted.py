"""Whom publishers want: those that they have sent something to, for a while, each once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager

import pytest
import trio
import trio.lowlevel

from macula_trio._background import Background
from macula_trio._ids import Contact, NodeId
from macula_trio._pubsub import wanted
from macula_trio._pubsub.wanted import WANTED_S, Wanted
from macula_trio.testing import open_mesh

Clock = trio.testing.MockClock


class Block:
    """Wants one node; unlike a generator, it does not end by being forgotten."""

    def __init__(self, redialer: Redialer, contact: Contact) -> None:
        self._redialer, self._contact = redialer, contact

    def __enter__(self) -> None:
        self._redialer.contacts.append(self._contact)
        self._redialer.entered += 1

    def __exit__(self, *_: object) -> None:
        self._redialer.contacts.remove(self._contact)


class Redialer:
    """Who is wanted now, and how often somebody was anew."""

    def __init__(self) -> None:
        self.contacts: list[Contact] = []
        self.entered = 0

    def want(self, contact: Contact) -> AbstractContextManager[None]:
        return Block(self, contact)


def contact(number: int, port: int = 9443) -> Contact:
    return Contact(node_id=NodeId(bytes([number]) * 32), endpoint=f"10.0.0.{number}:{port}")


@asynccontextmanager
async def open_wanted(redialer: Redialer) -> AsyncGenerator[Wanted, None]:
    background = Background()
    async with trio.open_nursery() as nursery:
        await nursery.start(background.serve)
        yield Wanted(redialer, background=background)
        nursery.cancel_scope.cancel()


async def test_whoever_was_sent_something_is_wanted_for_a_while_from_the_last_time_on(autojump_clock: Clock) -> None:
    redialer = Redialer()
    async with open_wanted(redialer) as nodes:
        nodes.keep(contact(1))
        nodes.keep(contact(2))
        await trio.sleep(WANTED_S - 1)
        nodes.keep(contact(1))
        assert redialer.contacts == [contact(1), contact(2)]
        await trio.sleep(2)
        assert redialer.contacts == [contact(1)]
        await trio.sleep(WANTED_S)
        assert redialer.contacts == []
        assert redialer.entered == 2
        nodes.keep(contact(1))
        assert redialer.contacts == [contact(1)]
        await trio.sleep(WANTED_S + 1)
        assert redialer.contacts == []


async def test_a_node_that_has_moved_is_wanted_where_it_is_now(autojump_clock: Clock) -> None:
    redialer = Redialer()
    async with open_wanted(redialer) as nodes:
        nodes.keep(contact(1))
        nodes.keep(contact(1, port=9444))
        assert redialer.contacts == [contact(1, port=9444)]
        await trio.sleep(WANTED_S + 1)
        assert redialer.contacts == []


async def test_only_so_many_are_wanted_at_once(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "WANTED_MAX", 2)
    redialer = Redialer()
    async with open_wanted(redialer) as nodes:
        for number in (1, 2, 1, 3):
            nodes.keep(contact(number))
        assert redialer.contacts == [contact(1), contact(3)]


async def test_a_node_that_closes_wants_nobody(autojump_clock: Clock) -> None:
    redialer = Redialer()
    async with open_wanted(redialer) as nodes:
        nodes.keep(contact(1))
        await trio.lowlevel.checkpoint()
    assert redialer.contacts == []
    nodes.keep(contact(2))
    assert redialer.contacts == []


async def test_a_publisher_wants_those_whom_it_has_reached(autojump_clock: Clock) -> None:
    redialer = Redialer()
    async with (
        open_mesh(4) as (_, publisher, one, other),
        one.subscribe("a.b"),
        other.subscribe("a.c"),
        publisher.subscribe("a.b"),
        open_wanted(redialer) as nodes,
    ):
        publisher._pubsub.publisher.wanted = nodes
        await publisher.publish("a.b", 1)
        assert [each.node_id for each in redialer.contacts] == [one.node_id]
        await publisher.publish("a.c", bytes(2_000_000))
        assert [each.node_id for each in redialer.contacts] == [one.node_id], "nothing was sent"
