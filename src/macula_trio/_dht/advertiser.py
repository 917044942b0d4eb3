"""What we advertise: stored, renewed before it expires, withdrawn when its block ends (DESIGN section 8).

One task of the node per advertisement owns its whole life, so whoever waits for it may be cancelled at any moment.
Several blocks may share one value: its metadata is what they attach together, and it is stored anew when that changes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
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
LEAVING: Final = "the node is leaving the mesh, and advertises nothing more"

Put: TypeAlias = Callable[[bytes, Kind, Mapping[str, object]], Awaitable[object]]
Withdraw: TypeAlias = Callable[[bytes, Kind, Mapping[str, object]], Awaitable[object]]
Check: TypeAlias = Callable[[bytes, Kind, Mapping[str, object]], object]


def merge(parts: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """What several blocks attach to the value that they share.

    Lists of one name are joined, without repeats; of anything else the first counts.
    """
    merged: dict[str, object] = {}
    for part in parts:
        for name, value in part.items():
            before = merged.setdefault(name, value)
            if isinstance(before, list) and isinstance(value, list):
                merged[name] = before + [item for item in value if item not in before]
    return merged


@attrs.define(eq=False)
class _Advert:
    """One value of ours: held by blocks, kept by one task, also while it is being withdrawn.

    Attributes:
      parts: what each block attaches.
      metadata: all that together.
      version: goes up whenever there is something to store that is not there yet.
      stored: the version that was stored last.
      progress: set, and replaced, when ``stored`` changes.
      renew: set to store again now.
      scope: of what its task does now.
      ended: whether its task is over, so that nothing will be stored any more.
    """

    key: bytes
    kind: Kind
    parts: dict[object, Mapping[str, object]] = attrs.field(factory=dict)
    metadata: Mapping[str, object] = attrs.field(factory=dict)
    version: int = 1
    stored: int = 0
    progress: trio.Event = attrs.field(factory=trio.Event)
    renew: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: bool = False

    def change(self, metadata: Mapping[str, object]) -> None:
        if metadata != self.metadata:
            self.metadata = metadata
            self.version += 1
            self.renew.set()

    async def wait_stored(self, version: int) -> None:
        await trio.lowlevel.checkpoint()
        while self.stored < version:
            if self.ended:
                raise trio.ClosedResourceError(LEAVING)
            await self.progress.wait()


class Advertiser:
    """Keeps our values alive in the DHT.

    Args:
      put: signs and stores a value once.
      withdraw: stores its tombstone.
      check: raises what is wrong with a value before it is stored.
      ttl_s: life of a value.
      random_fraction: a random number in [0, 1).
    """

    def __init__(
        self, *, put: Put, withdraw: Withdraw, check: Check, ttl_s: float, random_fraction: Callable[[], float]
    ) -> None:
        self._put = put
        self._withdraw = withdraw
        self._check = check
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
        """Be found under ``key`` for the length of the block; several blocks for one key share one value.

        Entering returns when a value was stored that has everything that this block attaches.

        Raises:
          trio.ClosedResourceError: the node is leaving the mesh.
        """
        if self._closing:
            raise trio.ClosedResourceError(LEAVING)
        advert = self._adverts.get((key, kind))
        together = merge([*(() if advert is None else advert.parts.values()), metadata])
        self._check(key, kind, together)
        if advert is None:
            advert = _Advert(key, kind)
            if not background.start_soon(self._keep, advert, name=f"advertise {kind} {key[:4].hex()}"):
                raise trio.ClosedResourceError(LEAVING)
            self._adverts[key, kind] = advert
            self._idle = trio.Event()
        elif not advert.parts:
            # It is being withdrawn.  The same task stores it again: two tasks would fight over one value.
            advert.scope.cancel()
        block = object()
        advert.parts[block] = metadata
        advert.change(together)
        try:
            await advert.wait_stored(advert.version)
            yield
        finally:
            del advert.parts[block]
            self._block_left(advert)

    def renew_all(self) -> None:
        """Store everything again now: we have just (re)joined."""
        for advert in self._adverts.values():
            advert.renew.set()

    async def wait_withdrawn(self) -> None:
        """End what is still advertised, for good, and wait until everything is withdrawn."""
        if not self._closing:
            self._closing = True
            for advert in self._adverts.values():
                if advert.parts:
                    self._let_go(advert)
        await self._idle.wait()

    def _block_left(self, advert: _Advert) -> None:
        if self._closing:
            return  # it is being withdrawn, and to let it go once more would cut that short
        if advert.parts:
            advert.change(merge(advert.parts.values()))
        else:
            self._let_go(advert)

    def _let_go(self, advert: _Advert) -> None:
        advert.version += 1  # whoever comes now waits until it is stored again
        advert.scope.cancel()

    async def _keep(self, advert: _Advert) -> None:
        try:
            while advert.parts and not self._closing:
                with trio.CancelScope() as advert.scope:
                    await self._store_and_renew(advert)
                if not advert.parts or self._closing:
                    with trio.move_on_after(WITHDRAWAL_DEADLINE_S) as advert.scope:
                        await self._withdraw(advert.key, advert.kind, advert.metadata)
        finally:
            advert.ended = True
            advert.progress.set()
            del self._adverts[advert.key, advert.kind]
            if not self._adverts:
                self._idle.set()

    async def _store_and_renew(self, advert: _Advert) -> None:
        while True:
            # What changes from here on needs another round.
            version, advert.renew = advert.version, trio.Event()
            await self._put(advert.key, advert.kind, advert.metadata)
            advert.stored = version
            advert.progress.set()
            advert.progress = trio.Event()
            pause_s = self._interval_s * (1 - RENEWAL_JITTER * self._random_fraction())
            with trio.move_on_after(pause_s):
                await advert.renew.wait()
