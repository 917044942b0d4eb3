"""One of several ways to the same thing: begun one after the other, the first that succeeds is taken.

A name has several addresses, and the first may be dead or of a family without a route (RFC 8305, "Happy Eyeballs").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from macula_trio.errors import MeshError, OwnIdentity, TrustError

ATTEMPT_DELAY_S: Final = 0.25  # before the next one is begun (RFC 8305, section 8); at once when the last one failed

_C = TypeVar("_C")
_R = TypeVar("_R")


async def first_success(candidates: Sequence[_C], attempt: Callable[[_C], Awaitable[_R]]) -> _R:
    """The result of the first attempt that succeeds; the others are cancelled.

    Args:
      candidates: at least one, the best first.
      attempt: raises `MeshError` to fail.

    Raises:
      MeshError: all failed; the error of one that may succeed another time, if there is one.
    """
    if len(candidates) == 1:
        return await attempt(candidates[0])
    results: list[_R] = []
    errors: list[MeshError] = []
    async with trio.open_nursery() as nursery:

        async def one(candidate: _C, ended: trio.Event) -> None:
            try:
                results.append(await attempt(candidate))
            except MeshError as exc:
                errors.append(exc)
                ended.set()
            else:
                nursery.cancel_scope.cancel()

        for candidate in candidates:
            ended = trio.Event()
            nursery.start_soon(one, candidate, ended, name=f"try {candidate}")
            with trio.move_on_after(ATTEMPT_DELAY_S):
                await ended.wait()
    if results:
        return results[0]
    raise min(errors, key=_finality)


def _finality(error: MeshError) -> int:
    """How little use trying again is: who refuses us will do so again, and we ourselves are no way to anybody."""
    return isinstance(error, TrustError) + isinstance(error, OwnIdentity)
