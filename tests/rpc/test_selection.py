from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import Contact, NodeId
from macula_trio._rpc import selection
from macula_trio._rpc.selection import STRATEGIES, Selector

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "selector.json").read_text(encoding="utf-8"))
PROVIDERS: Final = [
    Contact(node_id=NodeId.from_hex(node_id), endpoint=f"127.0.0.1:{port}")
    for port, node_id in enumerate(VECTORS["providers"], 10_001)
]


def never(_below: int) -> int:
    raise AssertionError("no chance wanted here")


def test_round_robin_goes_round_as_in_the_original() -> None:
    selector = Selector(never)
    chosen = [selector.order(PROVIDERS, "round_robin", "p")[0].node_id.hex() for _ in range(7)]
    assert chosen == VECTORS["round_robin_7"]


def test_first_always_takes_the_first() -> None:
    selector = Selector(never)
    for _ in range(2):
        ordered = selector.order(PROVIDERS, "first", "p")
        assert ordered == PROVIDERS
        assert ordered[0].node_id.hex() == VECTORS["first"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_there_is_nobody_to_choose_from_when_there_is_nobody(strategy: str) -> None:
    assert Selector(never).order([], strategy, "p") == []


@given(st.sampled_from(STRATEGIES), st.integers(0, 3), st.integers(0, 2**32), st.integers(0, 9))
def test_every_provider_is_tried_once(strategy: str, count: int, seed: int, turns: int) -> None:
    selector = Selector(Random(seed).randrange)
    for _ in range(turns):
        ordered = selector.order(PROVIDERS[:count], strategy, "p")
        assert sorted(ordered, key=lambda c: c.node_id) == sorted(PROVIDERS[:count], key=lambda c: c.node_id)
    assert PROVIDERS[0].endpoint == "127.0.0.1:10001"


def test_random_gives_every_order_the_same_chance() -> None:
    # 3! orders out of all draws (below 3, below 2, below 1): each exactly once.
    orders = Counter()
    for first in range(3):
        for second in range(2):
            draws = iter([first, second, 0])
            limits: list[int] = []
            selector = Selector(lambda below, draws=draws, limits=limits: (limits.append(below), next(draws))[1])
            orders[tuple(c.endpoint for c in selector.order(PROVIDERS, "random", "p"))] += 1
            assert limits == [3, 2, 1]
    assert len(orders) == 6


def test_every_procedure_has_its_own_turn() -> None:
    selector = Selector(never)
    assert [selector.order(PROVIDERS, "round_robin", name)[0] for name in ("p", "q", "p", "q")] == [
        PROVIDERS[0],
        PROVIDERS[0],
        PROVIDERS[1],
        PROVIDERS[1],
    ]


def test_only_so_many_turns_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "TURNS_MAX", 2)
    selector = Selector(never)
    names = ["p", "q", "p", "r", "p", "q"]  # r pushes q out, which was not called for longest
    chosen = [PROVIDERS.index(selector.order(PROVIDERS, "round_robin", name)[0]) for name in names]
    assert chosen == [0, 0, 1, 0, 2, 0]


@pytest.mark.parametrize("providers", [[], PROVIDERS])
def test_a_wrong_name_is_answered_with_the_right_ones(providers: list[Contact]) -> None:
    with pytest.raises(ValueError, match="'fastest' .* random, round_robin, first$"):
        Selector(never).order(providers, "fastest", "p")
