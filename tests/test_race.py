"""The first of several ways that leads somewhere."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock as Clock

from macula_trio._race import ATTEMPT_DELAY_S, first_success
from macula_trio.errors import MeshError, NotSent, OwnIdentity, PeerUnavailable, TrustError

FOREVER = float("inf")


class Ways:
    """Attempts that take a while, and then succeed or fail; when each was begun is noted."""

    def __init__(self, **ways: tuple[float, MeshError | None]) -> None:
        self._ways = ways
        self.begun: dict[str, float] = {}
        self.cancelled: list[str] = []

    async def attempt(self, name: str) -> str:
        self.begun[name] = trio.current_time()
        seconds, error = self._ways[name]
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled.append(name)
            raise
        if error is not None:
            raise error
        return name

    async def race(self) -> str:
        return await first_success(list(self._ways), self.attempt)


async def test_the_first_that_succeeds_is_taken_and_the_others_are_not_even_begun(autojump_clock: Clock) -> None:
    ways = Ways(a=(ATTEMPT_DELAY_S / 2, None), b=(0, None))
    assert await ways.race() == "a"
    assert list(ways.begun) == ["a"]
    assert ways.cancelled == []


async def test_one_that_is_slow_has_company_and_may_still_win(autojump_clock: Clock) -> None:
    ways = Ways(a=(1.5 * ATTEMPT_DELAY_S, None), b=(FOREVER, None))
    assert await ways.race() == "a"
    assert ways.begun["b"] - ways.begun["a"] == pytest.approx(ATTEMPT_DELAY_S)
    assert ways.cancelled == ["b"]


async def test_one_that_is_dead_costs_a_quarter_of_a_second_and_one_that_fails_nothing(autojump_clock: Clock) -> None:
    ways = Ways(a=(0, PeerUnavailable("a")), b=(FOREVER, None), c=(0, None))
    started = trio.current_time()
    assert await ways.race() == "c"
    assert trio.current_time() - started == pytest.approx(ATTEMPT_DELAY_S)
    assert ways.cancelled == ["b"]


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([PeerUnavailable("a"), PeerUnavailable("b")], "a"),
        ([TrustError("a"), PeerUnavailable("b")], "b"),
        ([OwnIdentity("a"), TrustError("b")], "b"),
        ([OwnIdentity("a"), OwnIdentity("b")], "a"),
        ([TrustError("a"), NotSent("b")], "b"),
    ],
)
async def test_when_all_fail_the_error_is_one_that_may_pass(
    errors: list[MeshError], told: str, autojump_clock: Clock
) -> None:
    ways = Ways(**{f"w{number}": (0.0, error) for number, error in enumerate(errors)})
    with pytest.raises(MeshError, match=told) as caught:
        await ways.race()
    assert caught.value in errors


async def test_the_only_way_is_taken_as_it_is(autojump_clock: Clock) -> None:
    error = PeerUnavailable("a")
    with pytest.raises(PeerUnavailable) as caught:
        await Ways(a=(9, error)).race()
    assert caught.value is error
