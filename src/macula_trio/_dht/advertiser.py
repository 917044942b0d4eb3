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
    key: bytes
    kind: Kind
    metadata: Mapping[str, object]
    holders: int = 0
    stored: trio.Event = attrs.field(factory=trio.Event)
    renew: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


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
        self._tasks = 0
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
            self._tasks += 1
            self._idle = trio.Event()
        advert.holders += 1
        try:
            await advert.stored.wait()
            yield
        finally:
            advert.holders -= 1
            if not advert.holders:
                self._end(advert)

    def renew_all(self) -> None:
        """Store everything again now: we have just (re)joined."""
        for advert in self._adverts.values():
            advert.renew.set()

    async def wait_withdrawn(self) -> None:
        """End what is still advertised and wait until everything is withdrawn."""
        for advert in tuple(self._adverts.values()):
            self._end(advert)
        await self._idle.wait()

    def _end(self, advert: _Advert) -> None:
        if self._adverts.get((advert.key, advert.kind)) is advert:
            del self._adverts[advert.key, advert.kind]
            advert.scope.cancel()

    async def _keep(self, advert: _Advert) -> None:
        try:
            with advert.scope:
                while True:
                    await self._put(advert.key, advert.kind, advert.metadata)
                    advert.stored.set()
                    pause_s = self._interval_s * (1 - RENEWAL_JITTER * self._random_fraction())
                    with trio.move_on_after(pause_s):
                        await advert.renew.wait()
                    advert.renew = trio.Event()
            with trio.move_on_after(WITHDRAWAL_DEADLINE_S):
                await self._withdraw(advert.key, advert.kind, advert.metadata)
        finally:
            self._tasks -= 1
            if not self._tasks:
                self._idle.set()
