"""Calls: find a provider, go straight to it, come back with its answer (DESIGN section 9).

The remaining time of the caller travels with the call and bounds the handler's cancel scope; cancelling the caller
cancels the handler.  A call that may have started is never made again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._peer.handshake import MSGPACK
from macula_trio._rpc.calls import CallKey, CallLedger, granted_s, wire_budget_ms
from macula_trio._rpc.errors_map import was_not_started
from macula_trio._rpc.selection import Selector
from macula_trio._util import validate_name
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_OCTETS,
    decode_payload,
    encode_message,
    encode_payload,
)
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import (
    AlreadyAdvertised,
    CallTimeout,
    MeshError,
    NoProviders,
    PeerUnavailable,
    Reject,
    RemoteCallError,
    RemoteProtocolError,
    TrustError,
)

logger = logging.getLogger("macula_trio.rpc")

PROVIDER_CACHE_S: Final = 60.0  # DESIGN section 9: providers change rarely, and a dead one is noticed by its dial
NO_PROVIDER_CACHE_S: Final = 5.0  # a caller in a loop must not become a storm of lookups
CACHE_ENTRIES_MAX: Final = 4096  # procedures; the oldest goes first
ATTEMPTS_MAX: Final = 3  # providers tried for one call that certainly has not started anywhere


@attrs.frozen(kw_only=True)
class Call:
    """What a handler gets.

    Attributes:
      args: as the caller gave them; plain JSON-like values, or bytes.
      caller: the proven id of the peer that called; None when it has proven nothing.
      procedure: the name under which the handler is advertised.
      headers: small texts that travelled with the call.
      call_id: 16 bytes.
      deadline: on Trio's clock; the handler is cancelled then.
    """

    args: object
    caller: NodeId | None
    procedure: str
    headers: Mapping[str, str]
    call_id: bytes
    deadline: float


Handler: TypeAlias = Callable[[Call], Awaitable[object]]


@attrs.frozen(kw_only=True)
class CallSettings:
    """Times in seconds and bounds, from `NodeConfig`."""

    timeout_default_s: float
    timeout_max_s: float
    handlers_max: int
    handlers_per_caller_max: int


class _NotStarted(MeshError):
    """This provider certainly has not run the call; ``error`` is what to say if no other can."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(str(error))
        self.error = error


@attrs.frozen
class _CachedProviders:
    contacts: tuple[Contact, ...]
    until: float


class RpcService:
    """Both ends of calls.

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
        self._own = own
        self._transport = transport
        self._directory = directory
        self._events = events
        self._random_bytes = random_bytes
        self._settings = settings
        self._selector = Selector(random_below)
        self._handlers: dict[str, Handler] = {}
        self._ledger = CallLedger(
            running_max=settings.handlers_max, running_per_caller_max=settings.handlers_per_caller_max
        )
        self._scopes: dict[CallKey, trio.CancelScope] = {}
        self._providers: dict[str, _CachedProviders] = {}
        self._background = Background()
        transport.handle(wire.Call, self._on_call)
        transport.handle(wire.Cast, self._on_cast)
        transport.handle(wire.Cancel, self._on_cancel)

    @property
    def running(self) -> int:
        """Handlers that run now for other nodes and for our own calls."""
        return self._ledger.running

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the handlers until cancelled."""
        await self._background.serve(task_status=task_status)

    # -- the callee -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def advertise(
        self, procedure: str, handler: Handler, *, metadata: Mapping[str, object]
    ) -> AsyncGenerator[None, None]:
        """Serve a procedure for the length of the block.

        Raises:
          AlreadyAdvertised: this node has a handler for it.
          ValueError: not a valid name.
        """
        validate_name(procedure, what="procedure")
        if procedure in self._handlers:
            raise AlreadyAdvertised(procedure)
        self._handlers[procedure] = handler
        self._providers.pop(procedure, None)  # whatever we remember, it is no longer true
        try:
            async with self._directory.advertised(dht_key(procedure), "service", metadata):
                yield
        finally:
            del self._handlers[procedure]

    def _on_call(self, link: Link, call: wire.Call) -> None:
        handler = self._handlers.get(call.procedure)
        if handler is None:
            _answer(link, _error_reply(call.call_id, "no_handler", f"no handler for {call.procedure!r}"))
            return
        now = trio.current_time()
        key = (_caller(link), call.call_id)
        verdict = self._ledger.admit(key, now)
        if isinstance(verdict, wire.Reply):
            _answer(link, verdict)
        elif verdict == "busy":
            _answer(link, _error_reply(call.call_id, "busy", "too many calls are running"))
        elif verdict == "run":
            settings = self._settings
            granted = granted_s(call.timeout, default_s=settings.timeout_default_s, ceiling_s=settings.timeout_max_s)
            scope = self._scopes[key] = trio.CancelScope(deadline=now + granted)
            task = f"call {call.procedure}"
            if not self._background.start_soon(self._serve_call, link, call, handler, key, scope, name=task):
                self._end_call(key)
                _answer(link, _error_reply(call.call_id, "draining", "the node is closing"))

    async def _serve_call(
        self, link: Link, call: wire.Call, handler: Handler, key: CallKey, scope: trio.CancelScope
    ) -> None:
        reply: wire.Reply | None = None
        gone = scope.cancel  # one object, so that it can be removed again
        link.add_close_callback(gone)
        started = trio.current_time()
        try:
            with scope:
                reply = await self._run_handler(handler, call, link.node_id if link.verified else None, scope.deadline)
            if reply is None and trio.current_time() >= scope.deadline:
                reply = _error_reply(call.call_id, "timeout", "the handler did not finish in the caller's time")
        finally:
            link.remove_close_callback(gone)
            self._end_call(key, reply, deadline=scope.deadline)
        self._events.emit(
            "rpc.served",
            procedure=call.procedure,
            caller=None if link.node_id is None else link.node_id.hex(),
            outcome="cancelled" if reply is None else "ok" if reply.error is None else reply.error.code,
            seconds=round(trio.current_time() - started, 6),
        )
        if reply is not None:
            _answer(link, reply)

    def _end_call(self, key: CallKey, reply: wire.Reply | None = None, *, deadline: float = inf) -> None:
        del self._scopes[key]
        self._ledger.finish(key, reply, size=_size(reply), deadline=deadline)

    async def _run_handler(
        self, handler: Handler, call: wire.Call, caller: NodeId | None, deadline: float
    ) -> wire.Reply:
        """The handler boundary: whatever a handler raises becomes an answer, and harms nothing else."""
        try:
            args = decode_payload(call.args, call.content_type)
        except RemoteProtocolError as exc:
            return _error_reply(call.call_id, "bad_payload", str(exc))
        try:
            result = await handler(
                Call(
                    args=args,
                    caller=caller,
                    procedure=call.procedure,
                    headers=call.headers or {},
                    call_id=call.call_id,
                    deadline=deadline,
                )
            )
            content_type = CONTENT_OCTETS if isinstance(result, bytes) else _answer_type(call.content_type)
            reply = wire.Reply(
                call_id=call.call_id, result=encode_payload(result, content_type), content_type=content_type
            )
            encode_message(reply)  # too large for a frame: an error of the handler's, not of the link's
            return reply
        except Reject as exc:
            if was_not_started(exc.code):  # it has: nobody may take this for leave to run it elsewhere
                return _error_reply(call.call_id, "handler_error", str(exc))
            return _error_reply(call.call_id, exc.code, exc.message)
        except Exception:  # the handler is the application's; its traceback is for its log, not for the wire
            logger.exception("handler of %s failed", call.procedure)
            self._events.emit("rpc.handler_failed", procedure=call.procedure)
            return _error_reply(call.call_id, "internal_error", "the handler failed")

    def _on_cancel(self, link: Link, cancel: wire.Cancel) -> None:
        scope = self._scopes.get((_caller(link), cancel.call_id))
        if scope is not None:
            scope.cancel()

    def _on_cast(self, link: Link, cast: wire.Cast) -> None:
        """A call without an answer: the same admission, nobody to tell."""
        handler = self._handlers.get(cast.procedure)
        call_id = self._random_bytes(16)
        key = (_caller(link), call_id)
        if handler is None or self._ledger.admit(key, trio.current_time()) != "run":
            self._events.emit("rpc.cast_dropped", procedure=cast.procedure)
            return
        if not self._background.start_soon(self._serve_cast, link, cast, handler, key, name=f"cast {cast.procedure}"):
            self._ledger.finish(key)

    async def _serve_cast(self, link: Link, cast: wire.Cast, handler: Handler, key: CallKey) -> None:
        call = wire.Call(
            call_id=key[1],
            procedure=cast.procedure,
            args=cast.args,
            content_type=cast.content_type,
            headers=cast.headers,
        )
        deadline = trio.current_time() + self._settings.timeout_default_s
        try:
            with trio.CancelScope(deadline=deadline):
                await self._run_handler(handler, call, link.node_id if link.verified else None, deadline)
        finally:
            self._ledger.finish(key)

    # -- the caller -----------------------------------------------------------------------------------------------

    async def call(
        self, procedure: str, args: object, *, headers: Mapping[str, str] | None, select: str, idempotent: bool
    ) -> object:
        """Call a procedure somewhere in the mesh; see `Node.call`."""
        validate_name(procedure, what="procedure")
        if trio.current_effective_deadline() < inf:
            return await self._call(procedure, args, headers=headers, select=select, idempotent=idempotent)
        timeout_s = self._settings.timeout_default_s
        with trio.move_on_after(timeout_s):
            return await self._call(procedure, args, headers=headers, select=select, idempotent=idempotent)
        raise CallTimeout(f"{procedure}: no reply within {timeout_s:g} s")

    async def _call(
        self, procedure: str, args: object, *, headers: Mapping[str, str] | None, select: str, idempotent: bool
    ) -> object:
        started = trio.current_time()
        candidates = self._selector.order(await self.providers(procedure), select, procedure)
        call_id = self._random_bytes(16)
        failure: MeshError = NoProviders(procedure)
        for contact in candidates[:ATTEMPTS_MAX]:
            try:
                result = await self._call_provider(contact, call_id, procedure, args, headers)
            except _NotStarted as exc:
                if not (isinstance(exc.error, RemoteCallError) and exc.error.code == "busy"):
                    self._forget_provider(procedure, contact)  # a busy one is there, and soon free again
                failure = exc.error
                continue
            except PeerUnavailable as exc:
                self._forget_provider(procedure, contact)
                if not idempotent:
                    raise
                failure = exc
                continue
            self._events.emit(
                "rpc.called",
                procedure=procedure,
                provider=contact.node_id.hex(),
                hops=1,
                seconds=round(trio.current_time() - started, 6),
            )
            return result
        raise failure

    async def _call_provider(
        self, contact: Contact, call_id: bytes, procedure: str, args: object, headers: Mapping[str, str] | None
    ) -> object:
        """Make the call at one provider.

        Raises:
          _NotStarted: it certainly did not run there.
        """
        if contact.node_id == self._own:
            return _result(await self._call_here(call_id, procedure, args, headers), procedure)
        try:
            link = await self._transport.link_to(contact)
        except (PeerUnavailable, TrustError) as exc:
            raise _NotStarted(exc) from exc
        content_type = CONTENT_OCTETS if isinstance(args, bytes) else CONTENT_JSON
        if content_type == CONTENT_JSON and MSGPACK in link.capabilities:
            content_type = CONTENT_MSGPACK
        request = wire.Call(
            call_id=call_id,
            procedure=procedure,
            args=encode_payload(args, content_type),
            timeout=self._budget_ms(),
            content_type=content_type,
            headers=dict(headers) if headers else None,
        )
        answered = False
        try:
            reply = await link.ask(request, wire.Reply)
            answered = True
        finally:
            if not answered and not link.is_closed:
                link.send_nowait(wire.Cancel(call_id=call_id))
        return _result(reply, procedure)

    async def _call_here(
        self, call_id: bytes, procedure: str, args: object, headers: Mapping[str, str] | None
    ) -> wire.Reply:
        """We are the provider: the same admission and the same encoding, without a link."""
        handler = self._handlers.get(procedure)
        await trio.lowlevel.checkpoint()
        if handler is None:
            return _error_reply(call_id, "no_handler", f"no handler for {procedure!r}")
        key = (self._own, call_id)
        if self._ledger.admit(key, trio.current_time()) != "run":
            return _error_reply(call_id, "busy", "too many calls are running")
        content_type = CONTENT_OCTETS if isinstance(args, bytes) else CONTENT_MSGPACK
        call = wire.Call(
            call_id=call_id,
            procedure=procedure,
            args=encode_payload(args, content_type),
            content_type=content_type,
            headers=dict(headers) if headers else None,
        )
        deadline = trio.current_time() + self._budget_ms() / 1000
        try:
            with trio.move_on_at(deadline):
                return await self._run_handler(handler, call, self._own, deadline)
        finally:
            self._ledger.finish(key)
        return _error_reply(call_id, "timeout", "the handler did not finish in the caller's time")

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
        contacts = tuple(await self._directory.find(dht_key(procedure), "service"))
        self._providers.pop(procedure, None)
        if len(self._providers) >= CACHE_ENTRIES_MAX:
            del self._providers[next(iter(self._providers))]
        lifetime = PROVIDER_CACHE_S if contacts else NO_PROVIDER_CACHE_S
        self._providers[procedure] = _CachedProviders(contacts, trio.current_time() + lifetime)
        return contacts

    def _forget_provider(self, procedure: str, contact: Contact) -> None:
        cached = self._providers.get(procedure)
        if cached is not None:
            rest = tuple(c for c in cached.contacts if c.node_id != contact.node_id)
            if rest:
                self._providers[procedure] = attrs.evolve(cached, contacts=rest)
            else:
                del self._providers[procedure]  # ask the DHT again, at once


def _caller(link: Link) -> object:
    """What tells callers apart: the proven id, or the link of somebody who proved nothing."""
    return link.node_id if link.verified else link


def _answer_type(content_type: str | None) -> str:
    return CONTENT_MSGPACK if content_type == CONTENT_MSGPACK else CONTENT_JSON


def _error_reply(call_id: bytes, code: str, message: str) -> wire.Reply:
    return wire.Reply(call_id=call_id, error=wire.CallError(code=code, message=message))


def _size(reply: wire.Reply | None) -> int:
    return len(reply.result) if reply is not None and reply.result is not None else 0


def _answer(link: Link, reply: wire.Reply) -> None:
    if not link.is_closed:
        link.send_nowait(reply)


def _result(reply: wire.Reply, procedure: str) -> object:
    """What a reply means to the caller."""
    if reply.error is not None:
        error = RemoteCallError(reply.error.code, reply.error.message)
        if was_not_started(reply.error.code):
            raise _NotStarted(error)
        if reply.error.code == "timeout":
            raise CallTimeout(f"{procedure}: {reply.error.message}")
        raise error
    return None if reply.result is None else decode_payload(reply.result, reply.content_type)
