"""Calls: find a provider, go straight to it, come back with its answer (DESIGN section 9).

The remaining time of the caller travels with the call; cancelling the caller cancels the handler.  A call that may have
started is never made again.  What happens at the provider is in ``callee.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio

from macula_trio._authorisation import Allowance
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._peer.handshake import MSGPACK
from macula_trio._routing.routes import Carrier, takes_routed
from macula_trio._rpc.callee import Callee, CallSettings
from macula_trio._rpc.calls import CALL_ID_BYTES, wire_budget_ms
from macula_trio._rpc.errors_map import was_not_started
from macula_trio._rpc.offer import Handler
from macula_trio._rpc.selection import Selector
from macula_trio._util import clip, validate_headers, validate_name
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_OCTETS,
    decode_payload,
    encode_payload,
)
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import (
    CallTimeout,
    MeshError,
    NoProviders,
    NotSent,
    PeerUnavailable,
    RemoteCallError,
    TrustError,
)

logger = logging.getLogger("macula_trio.rpc")

PROVIDER_CACHE_S: Final = 60.0  # DESIGN section 9: providers change rarely, and a dead one is noticed by its dial
NO_PROVIDER_CACHE_S: Final = 5.0  # a caller in a loop must not become a storm of lookups
CACHE_ENTRIES_MAX: Final = 4096  # procedures; the oldest goes first
DIAL_SHARE_S: Final = 1.5  # for reaching one provider while there are others: three fit into the default of a call
ATTEMPTS_MAX: Final = 3  # providers tried for one call that certainly has not started anywhere


class _NotStarted(MeshError):
    """This provider certainly has not run the call; ``error`` is what to say if no other can."""

    def __init__(self, error: MeshError, *, unreached: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.unreached = unreached  # there was no link, so that other nodes may know a way


@attrs.frozen
class _CachedProviders:
    contacts: tuple[Contact, ...]
    routed: frozenset[NodeId]  # those of them that take calls through other nodes
    until: float


@attrs.frozen
class _Outgoing:
    """A call of ours: what does not depend on who answers it."""

    procedure: str
    call_id: bytes
    args: object
    headers: dict[str, str] | None


class RpcService:
    """Both ends of calls.

    Attributes:
      callee: serves those that others make.
      carrier: takes calls to providers that cannot be reached directly.

    Args:
      own: our id.
      transport: where links come from.
      directory: who offers what.
      events: where calls are told.
      random_bytes: for call ids.
      random_below: a random integer below its argument, for the choice among providers.
      settings: times and bounds.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        directory: Directory,
        events: EventBus,
        random_bytes: Callable[[int], bytes],
        random_below: Callable[[int], int],
        settings: CallSettings,
    ) -> None:
        self.carrier: Carrier | None = None
        self._own = own
        self._transport = transport
        self._directory = directory
        self._events = events
        self._random_bytes = random_bytes
        self._settings = settings
        self._selector = Selector(random_below)
        self._providers: dict[str, _CachedProviders] = {}
        self.callee: Callee = Callee(
            own=own,
            transport=transport,
            directory=directory,
            events=events,
            random_bytes=random_bytes,
            settings=settings,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the handlers until cancelled."""
        await self.callee.serve(task_status=task_status)

    @asynccontextmanager
    async def advertise(
        self,
        procedure: str,
        handler: Handler,
        *,
        metadata: Mapping[str, object],
        allowance: Allowance[()],
        allow_routed: bool,
    ) -> AsyncGenerator[None, None]:
        """Serve a procedure for the length of the block; see `Node.advertise`.

        Raises:
          AlreadyAdvertised: this node has a handler for it.
          ValueError: not a valid name.
        """
        self._providers.pop(procedure, None)  # whatever we remember, it is no longer true
        async with self.callee.advertise(
            procedure, handler, metadata=metadata, allowance=allowance, allow_routed=allow_routed
        ):
            yield

    async def call(
        self, procedure: str, args: object, *, headers: Mapping[str, str] | None, select: str, idempotent: bool
    ) -> object:
        """Call a procedure somewhere in the mesh; see `Node.call`."""
        validate_name(procedure, what="procedure")
        out = _Outgoing(
            procedure, self._random_bytes(CALL_ID_BYTES), args, validate_headers(headers) if headers else None
        )
        call = partial(self._call, out, select=select, idempotent=idempotent)
        try:
            if trio.current_effective_deadline() < math.inf:
                return await call()
            timeout_s = self._settings.timeout_default_s
            with trio.move_on_after(timeout_s):
                return await call()
            raise CallTimeout(f"{procedure}: no reply within {timeout_s:g} s")
        except MeshError as exc:
            reason = f"{type(exc).__name__}: {clip(str(exc))}"
            self._events.emit("rpc.failed", procedure=procedure, call_id=out.call_id.hex(), reason=reason)
            raise

    async def _call(self, out: _Outgoing, *, select: str, idempotent: bool) -> object:
        started = trio.current_time()
        unreached: dict[NodeId, None] = {}
        hops = 1
        try:
            provider, result = await self._call_directly(out, unreached, select=select, idempotent=idempotent)
        except _NotStarted as exc:
            if not unreached:
                raise exc.error from None
            provider, result, hops = await self._call_through_others(out, unreached, exc.error, idempotent=idempotent)
        self._events.emit(
            "rpc.called",
            procedure=out.procedure,
            call_id=out.call_id.hex(),
            provider=provider.hex(),
            hops=hops,
            seconds=round(trio.current_time() - started, 6),
        )
        return result

    async def _call_directly(
        self, out: _Outgoing, unreached: dict[NodeId, None], *, select: str, idempotent: bool
    ) -> tuple[NodeId, object]:
        """Go straight to one provider after the other, until one runs the call.

        Args:
          out: the call.
          unreached: takes those that cannot be reached, and would take the call from another node.
          select: see `Node.call`.
          idempotent: whether it may run twice.

        Raises:
          _NotStarted: none did, or none whose answer arrived where it may run twice.
        """
        failure: MeshError = NoProviders(out.procedure)
        tried: dict[Contact, None] = {}
        # Twice: whom we remembered, and when none of those could start the call, whom the DHT names now.
        for _ in range(2):
            was_cached = out.procedure in self._providers
            found = await self.providers(out.procedure)
            if not found and self.callee.stands_in(out.procedure):
                found = (Contact(node_id=self._own, endpoint=""),)  # by a handler of ours, of another; nobody dials it
            candidates = [c for c in self._selector.order(found, select, out.procedure) if c not in tried]
            for index, contact in enumerate(candidates[: ATTEMPTS_MAX - len(tried)]):
                tried[contact] = None
                takes_routed = self._takes_routed(out.procedure, contact)
                is_last = index == len(candidates) - 1 and not takes_routed
                try:
                    return contact.node_id, await self._call_provider(contact, out, is_last=is_last)
                except _NotStarted as exc:
                    failure = exc.error
                    if exc.unreached and takes_routed:
                        unreached[contact.node_id] = None
                except (PeerUnavailable, RemoteCallError) as exc:
                    if not idempotent or (isinstance(exc, RemoteCallError) and exc.code != "cancelled"):
                        raise
                    failure = exc
                    self._events.emit("rpc.repeated", procedure=out.procedure, call_id=out.call_id.hex())
            if not was_cached or not found:
                break
            self._providers.pop(out.procedure, None)
        raise _NotStarted(failure)

    async def _call_through_others(
        self, out: _Outgoing, providers: Iterable[NodeId], failure: MeshError, *, idempotent: bool
    ) -> tuple[NodeId, object, int]:
        """Let other nodes take the call to providers that we cannot reach; gives provider, result and hops."""
        assert self.carrier is not None
        for provider in providers:
            try:
                carried = await self.carrier.carry_call(provider, self._request(frozenset(), out))
                return provider, _result(carried.reply, out.procedure), carried.hops
            except _NotStarted as exc:
                failure = exc.error
            except TrustError as exc:
                failure = exc
            except PeerUnavailable as exc:
                if not idempotent:
                    raise
                failure = exc
                self._events.emit("rpc.repeated", procedure=out.procedure, call_id=out.call_id.hex())
        raise failure

    def _takes_routed(self, procedure: str, contact: Contact) -> bool:
        cached = self._providers.get(procedure)
        return self.carrier is not None and cached is not None and contact.node_id in cached.routed

    async def _call_provider(self, contact: Contact, out: _Outgoing, *, is_last: bool) -> object:
        """Make the call at one provider.

        Args:
          contact: the provider.
          out: the call; its id is the same at every provider that is tried.
          is_last: there is no other way to try, so reaching this one may take all the time there is.

        Raises:
          _NotStarted: it certainly did not run there.
        """
        procedure = out.procedure
        if contact.node_id == self._own:
            return _result(await self.callee.call_here(out.call_id, procedure, out.args, out.headers), procedure)
        answered = False
        link: Link | None = None
        try:
            link = await self._reach(contact, math.inf if is_last else DIAL_SHARE_S)
            reply = await link.ask(self._request(link.capabilities, out), wire.Reply)
            answered = True
        except NotSent as exc:
            raise _NotStarted(exc) from exc
        finally:
            if not answered:  # by error or by cancellation: others are tried first, until the DHT is asked again
                self._forget_provider(procedure, contact)
                if link is not None and not link.is_closed:
                    link.send_nowait(wire.Cancel(call_id=out.call_id))
        try:
            return _result(reply, procedure)
        except _NotStarted as exc:
            if not (isinstance(exc.error, RemoteCallError) and exc.error.code == "busy"):
                self._forget_provider(procedure, contact)  # a busy one is there, and soon free again
            raise

    async def _reach(self, contact: Contact, share_s: float) -> Link:
        """A link to a provider, within its share of the caller's time.

        Raises:
          _NotStarted: there is none.
        """
        with trio.move_on_after(share_s):
            try:
                return await self._transport.link_to(contact)
            except (PeerUnavailable, TrustError) as exc:
                raise _NotStarted(exc, unreached=True) from exc
        error = PeerUnavailable(f"{contact.endpoint} did not answer within {share_s:g} s")
        raise _NotStarted(error, unreached=True)

    def _request(self, capabilities: frozenset[str], out: _Outgoing) -> wire.Call:
        content_type = CONTENT_OCTETS if isinstance(out.args, bytes) else CONTENT_JSON
        if content_type == CONTENT_JSON and MSGPACK in capabilities:
            content_type = CONTENT_MSGPACK
        return wire.Call(
            call_id=out.call_id,
            procedure=out.procedure,
            args=encode_payload(out.args, content_type),
            timeout=self._budget_ms(),
            content_type=content_type,
            headers=out.headers,
        )

    def _budget_ms(self) -> int:
        remaining = trio.current_effective_deadline() - trio.current_time()
        return wire_budget_ms(remaining, ceiling_s=self._settings.timeout_max_s)

    async def providers(self, procedure: str) -> tuple[Contact, ...]:
        """Who offers a procedure; from memory for 60 s, "nobody" for 5 s."""
        now = trio.current_time()
        cached = self._providers.get(procedure)
        if cached is not None and cached.until > now:
            await trio.lowlevel.checkpoint()
            return cached.contacts
        adverts = await self._directory.find(dht_key(procedure), "service")
        contacts = tuple(advert.contact for advert in adverts)
        self._providers.pop(procedure, None)
        if len(self._providers) >= CACHE_ENTRIES_MAX:
            del self._providers[next(iter(self._providers))]
        lifetime = PROVIDER_CACHE_S if contacts else NO_PROVIDER_CACHE_S
        routed = frozenset(advert.contact.node_id for advert in adverts if takes_routed(advert))
        self._providers[procedure] = _CachedProviders(contacts, routed, trio.current_time() + lifetime)
        return contacts

    def _forget_provider(self, procedure: str, contact: Contact) -> None:
        cached = self._providers.get(procedure)
        if cached is not None:
            rest = tuple(c for c in cached.contacts if c.node_id != contact.node_id)
            if rest:
                self._providers[procedure] = attrs.evolve(cached, contacts=rest)
            else:
                del self._providers[procedure]  # ask the DHT again, at once


def _result(reply: wire.Reply, procedure: str) -> object:
    """What a reply means to the caller."""
    if reply.error is not None:
        error = RemoteCallError(reply.error.code, reply.error.message)
        if was_not_started(reply.error.code):
            raise _NotStarted(error)
        if reply.error.code == "timeout":
            raise CallTimeout(f"{procedure}: {reply.error.message}")
        if reply.error.code == "connection_lost":
            raise PeerUnavailable(f"{procedure}: {reply.error.message}")
        raise error
    return None if reply.result is None else decode_payload(reply.result, reply.content_type)
