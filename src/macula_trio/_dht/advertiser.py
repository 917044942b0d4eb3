"""What we advertise: stored, renewed before it expires, withdrawn when its block ends (DESIGN section 8).

One task of the node per advertisement owns its whole life, so whoever waits for it may be cancelled at any moment.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._background import Background
from macula_trio._identity.record import Kind

RENEWAL_MARGIN_S: Final = 60.0  # before the end of a value's life
RENEWAL_MIN_S: Final = 10.0
RENEWAL_JITTER: Final = 0.1  # of the interval: nodes that started together must not renew together
WITHDRAWAL_DEADLINE_S: Final = 5.0  # behind the scenes; values expire by themselves in any case

Put: TypeAlias = Callable[[bytes, Kind, Mapping[str, object]], Awaitable[object]]
Withdraw: TypeAlias = Callable[[bytes, Kind, Mapping[str, object]], Awaitable[object]]


@attrs.define(eq=False)
class _Advert:
    """One value of ours: held by blocks, kept by one task, also while it is being withdrawn."""

    key: bytes
    kind: Kind
    metadata: Mapping[str, object]
    holders: int = 0
    stored: trio.Event = attrs.field(factory=trio.Event)
    renew: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)  # of what its task does now


class Advertiser:
    """Keeps our values alive in the DHT.

    Args:
      put: signs and stores a value once.
      withdraw: stores its tombstone.
      ttl_s: life of a value.
      random_fraction: a random number in [0, 1).
    """

    def __init__(self, *, put: Put, withdraw: Withdraw, ttl_s: float, random_fraction: Callable[[], float]) -> None:
        self._put = put
        self._withdraw = withdraw
        self._interval_s = max(RENEWAL_MIN_S, ttl_s - RENEWAL_MARGIN_S)
        self._random_fraction = random_fraction
        self._adverts: dict[tuple[bytes, Kind], _Advert] = {}
        self._closing = False
        self._idle = trio.Event()
        self._idle.set()

    @asynccontextmanager
    async def advertised(
        self, background: Background, key: bytes, kind: Kind, metadata: Mapping[str, object]
    ) -> AsyncGenerator[None, None]:
        """Be found under ``key`` for the length of the block; several blocks for one key share one value."""
        advert = self._adverts.get((key, kind))
        if advert is None:
            advert = _Advert(key, kind, metadata)
            if not background.start_soon(self._keep, advert, name=f"advertise {kind} {key[:4].hex()}"):
                raise trio.ClosedResourceError("the node is closed")
            self._adverts[key, kind] = advert
            self._idle = trio.Event()
        elif not advert.holders:
            # It is being withdrawn.  The same task stores it again: two tasks would fight over one value.
            advert.metadata = metadata
            advert.scope.cancel()
        advert.holders += 1
        try:
            await advert.stored.wait()
            yield
        finally:
            advert.holders -= 1
            if not advert.holders:
                self._let_go(advert)

    def renew_all(self) -> None:
        """Store everything again now: we have just (re)joined."""
        for advert in self._adverts.values():
            advert.renew.set()

    async def wait_withdrawn(self) -> None:
        """End what is still advertised and wait until everything is withdrawn."""
        self._closing = True
        for advert in self._adverts.values():
            if advert.holders:
                self._let_go(advert)
        await self._idle.wait()

    def _let_go(self, advert: _Advert) -> None:
        advert.stored = trio.Event()
        advert.scope.cancel()

    async def _keep(self, advert: _Advert) -> None:
        try:
            while advert.holders and not self._closing:
                with trio.CancelScope() as advert.scope:
                    await self._store_and_renew(advert)
                if not advert.holders or self._closing:
                    with trio.move_on_after(WITHDRAWAL_DEADLINE_S) as advert.scope:
                        await self._withdraw(advert.key, advert.kind, advert.metadata)
        finally:
            del self._adverts[advert.key, advert.kind]
            if not self._adverts:
                self._idle.set()

    async def _store_and_renew(self, advert: _Advert) -> None:
        while True:
            await self._put(advert.key, advert.kind, advert.metadata)
            advert.stored.set()
            pause_s = self._interval_s * (1 - RENEWAL_JITTER * self._random_fraction())
            with trio.move_on_after(pause_s):
                await advert.renew.wait()
            advert.renew = trio.Event()
