"""Whatever happens to links, those of a pair converge to one, nothing comes twice or out of order, nothing stays.

See `link_worlds` for the worlds, and for what holds in which of them.
"""

from __future__ import annotations

import pytest
from link_worlds import Plan, run_world, try_seed

from macula_trio._peer.succession import Early, Succession

pytestmark = pytest.mark.thorough

EVERY_DAY, BATCH, SWEPT = 20, 10, 1000
FOUND = (28, 51, 827)  # each met a defect that none of the first ones does
SOME = (*range(8), 18, 40)  # with every kind of end


@pytest.mark.parametrize("seed", [*range(EVERY_DAY), *FOUND])
def test_links_keep_their_promises(seed: int) -> None:
    _, failure = try_seed(seed)
    assert not failure, failure


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(EVERY_DAY, SWEPT, BATCH))
def test_links_keep_their_promises_for_many_seeds(first: int) -> None:
    failures = [failure for _, failure in map(try_seed, range(first, first + BATCH)) if failure]
    assert not failures, "\n".join(failures)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_worlds_are_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Early] = []
    put = Succession.put

    def remember(succession: Succession, early: Early) -> None:
        waited.append(early)
        put(succession, early)

    monkeypatch.setattr(Succession, "put", remember)
    worlds = [run_world(seed) for seed in SOME]
    plans: list[Plan] = [world.plan for world in worlds]
    assert {plan.is_gentle for plan in plans} == {True, False}
    assert {plan.peers for plan in plans} == {2, 3, 4}
    ends = {link.end for world in worlds for links in world.links.values() for link in links}
    for reason in ("replaced", "idle", "surplus", "the peer was started anew", "silent"):
        assert any(reason in end for end in ends), f"no link has ended in {len(SOME)} worlds as {reason}"
    assert waited, "nothing had to wait for the end of an earlier link"
    crossed = sum(len({link for link, _ in got}) > 1 for world in worlds for got in world.received.values())
    assert crossed, "nobody was told something on several links"


def test_a_world_is_a_function_of_its_seed() -> None:
    """Else no failure could be seen again; which link stays must not follow from keys that OpenSSL draws."""
    assert [run_world(seed).network.digest for seed in (3, 4)] == [run_world(seed).network.digest for seed in (3, 4)]
