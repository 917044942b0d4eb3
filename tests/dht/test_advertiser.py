"""Several blocks for one key share one value: what it says, when it is stored again, and who waits for what."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._background import Background
from macula_trio._dht.advertiser import Advertiser, merge

Clock = trio.testing.MockClock

KEY: Final = bytes(32)
PUT_S: Final = 1.0


@attrs.define(eq=False)
class Mesh:
    """Where values are stored, slowly.

    Attributes:
      puts: what was stored, with the time at which that was done.
      now: what is there.
      refused: metadata that cannot be stored.
    """

    background: Background
    puts: list[tuple[float, dict[str, Any]]] = attrs.field(factory=list)
    now: dict[str, Any] | None = None
    refused: dict[str, Any] | None = None
    advertiser: Advertiser = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.advertiser = Advertiser(
            put=self.put, withdraw=self.withdraw, check=self.check, ttl_s=300, random_fraction=lambda: 0
        )

    def check(self, key: bytes, kind: str, metadata: Mapping[str, object]) -> None:
        if metadata == self.refused:
            raise ValueError("too much")

    async def put(self, key: bytes, kind: str, metadata: Mapping[str, object]) -> None:
        stored = dict(metadata)
        await trio.sleep(PUT_S)
        self.now = stored
        self.puts.append((trio.current_time(), stored))

    async def withdraw(self, key: bytes, kind: str, metadata: Mapping[str, object]) -> None:
        await trio.sleep(PUT_S)
        self.now = None

    def advertised(self, *names: str) -> Any:
        return self.advertiser.advertised(self.background, KEY, "subscriber", {"names": list(names)})


@asynccontextmanager
async def open_mesh() -> AsyncGenerator[Mesh, None]:
    background = Background()
    async with trio.open_nursery() as nursery:
        await nursery.start(background.serve)
        yield Mesh(background)
        nursery.cancel_scope.cancel()


async def test_a_block_is_entered_when_a_value_with_its_part_was_stored(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        async with mesh.advertised("one"):
            assert mesh.now == {"names": ["one"]}
            async with mesh.advertised("two"):
                assert mesh.now == {"names": ["one", "two"]}
                async with mesh.advertised("one"):
                    assert len(mesh.puts) == 2, "nothing new"
            left_at = trio.current_time()
            await trio.sleep(2 * PUT_S)
            assert mesh.now == {"names": ["one"]}
            assert mesh.puts[2:] == [(left_at + PUT_S, {"names": ["one"]})], "behind the scenes, and once"
        await trio.sleep(2 * PUT_S)
        assert mesh.now is None


async def test_blocks_that_come_during_a_store_share_the_next_one(autojump_clock: Clock) -> None:
    entered: dict[str, float] = {}

    async with open_mesh() as mesh, trio.open_nursery() as nursery:

        async def hold(name: str) -> None:
            async with mesh.advertised(name):
                entered[name] = trio.current_time() - started
                assert mesh.now is not None
                assert name in mesh.now["names"]
                await trio.sleep(100)

        started = trio.current_time()
        nursery.start_soon(hold, "one")
        for name in ("two", "three"):  # each while the first is on its way
            await trio.sleep(PUT_S / 4)
            nursery.start_soon(hold, name)
        await trio.sleep(10)
        assert entered == {"one": PUT_S, "two": 2 * PUT_S, "three": 2 * PUT_S}
        assert len(mesh.puts) == 2


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh, mesh.advertised("one"):
        with trio.move_on_after(PUT_S / 2):
            async with mesh.advertised("two"):
                raise AssertionError("entered")
        await trio.sleep(3 * PUT_S)
        assert mesh.now == {"names": ["one"]}


async def test_who_comes_during_the_withdrawal_waits_until_it_is_there_again(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        async with mesh.advertised("one"):
            pass
        await trio.sleep(PUT_S / 2)
        async with mesh.advertised("one"):
            assert [stored for _, stored in mesh.puts] == [{"names": ["one"]}] * 2
            assert mesh.now == {"names": ["one"]}


async def test_what_cannot_be_stored_together_is_refused_and_changes_nothing(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        mesh.refused = {"names": ["one", "two"]}
        async with mesh.advertised("one"):
            with pytest.raises(ValueError, match="too much"):
                async with mesh.advertised("two"):
                    raise AssertionError("entered")
            await trio.sleep(3 * PUT_S)
            assert len(mesh.puts) == 1


PARTS: Final = st.lists(st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 3), unique=True)))


@given(PARTS)
def test_lists_are_joined_without_repeats_in_the_order_of_the_blocks(parts: list[dict[str, list[int]]]) -> None:
    merged = merge(parts)
    for name in {name for part in parts for name in part}:
        together = [item for part in parts for item in part.get(name, [])]
        assert merged[name] == list(dict.fromkeys(together))


def test_of_what_is_no_list_the_first_counts() -> None:
    assert merge([{"a": 1, "b": [1]}, {"a": 2, "b": "x", "c": 3}]) == {"a": 1, "b": [1], "c": 3}
    assert merge([]) == {}
