"""The provider's end of calls: who is let in, and the handlers that run (DESIGN section 9).

A call comes bare or out of an envelope, as a cast that nobody answers, or from ourselves; all pass one ledger, so that
a call never runs twice and nobody takes every place.  The caller's time bounds the handler's cancel scope.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from macula_trio._authorisation import Allowance
from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import NodeId, dht_key, hex_or_none
from macula_trio._routing.routes import ROUTED
from macula_trio._rpc.calls import CALL_ID_BYTES, CallKey, CallLedger, granted_s
from macula_trio._rpc.incoming import Incoming, cancel_key
from macula_trio._rpc.offer import HEALTH_PROCEDURE, Call, Handler, Offer
from macula_trio._rpc.replies import answer_type, error_reply, rejection_reply, reply_size
from macula_trio._rpc.running import RunningHandlers
from macula_trio._util import clip, validate_headers, validate_name
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_MSGPACK, CONTENT_OCTETS, decode_payload, encode_message, encode_payload
from macula_trio._wire.envelope import Origin, origin_of
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import AlreadyAdvertised, Reject, RemoteProtocolError

logger = logging.getLogger("macula_trio.rpc")


@attrs.frozen(kw_only=True)
class CallSettings:
    """Times in seconds and bounds, from `NodeConfig`; ``allow_routed`` is of every handler here."""

    timeout_default_s: float
    timeout_max_s: float
    handlers_max: int
    handlers_per_caller_max: int
    allow_routed: bool


class Callee:
    """Serves the procedures that this node offers.

    Attributes:
      handlers: those that run.
      last_answered: the links on which answers went out since `drain`.

    Args:
      own: our id.
      transport: where links come from.
      directory: where others learn what we offer.
      events: where calls are told.
      random_bytes: for the ids of casts, which come without one.
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
        settings: CallSettings,
    ) -> None:
        self._own = own
        self._directory = directory
        self._events = events
        self._random_bytes = random_bytes
        self._settings = settings
        self._offers: dict[str, Offer] = {}
        self._prober: NodeId | None = None
        self._health = Offer(_answer_probe, Allowance[()](None), allow_routed=False)
        self._ledger = CallLedger(
            running_max=settings.handlers_max, running_per_caller_max=settings.handlers_per_caller_max
        )
        self._scopes: dict[CallKey, trio.CancelScope] = {}
        self._background = Background()
        self.handlers: RunningHandlers = RunningHandlers()
        self._probes = RunningHandlers()  # nobody waits for the end of a health check
        self.last_answered: dict[Link, None] = {}
        self._is_draining = False
        self._forbidden = self._turned_away = 0
        transport.handle(wire.Call, self._on_call)
        transport.handle(wire.Cast, self._on_cast)

    @property
    def running(self) -> int:
        """Handlers that run now for other nodes and for our own calls."""
        return self._ledger.running

    @property
    def forbidden(self) -> int:
        """Calls and casts that were refused because of who made them."""
        return self._forbidden

    @property
    def turned_away(self) -> int:
        """Calls and casts that were refused because the node drains."""
        return self._turned_away

    def drain(self) -> None:
        """Refuse from now on what would begin anew, but health checks and what our own handlers ask of us."""
        self._is_draining = True

    def stands_in(self, procedure: str) -> bool:
        """Whether our own handlers find a procedure here although it was withdrawn."""
        return self._is_draining and procedure in self._offers

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the handlers until cancelled."""
        await self._background.serve(task_status=task_status)

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
          ValueError: not a valid name, or reserved.
        """
        validate_name(procedure, what="procedure")
        if procedure == HEALTH_PROCEDURE:
            raise ValueError(
                f"procedure {procedure!r} is reserved for the node's own health check; choose another name"
            )
        if procedure in self._offers:
            raise AlreadyAdvertised(procedure)
        offer = self._offers[procedure] = Offer(handler, allowance, allow_routed or self._settings.allow_routed)
        told = {**metadata, ROUTED: True} if offer.allow_routed else metadata
        try:
            async with self._directory.advertised(dht_key(procedure), "service", told):
                yield
        finally:
            del self._offers[procedure]
            await offer.end()  # noqa: ASYNC102  # shields itself; like a nursery it waits for what it has started

    def answer_probe(self, prober: NodeId) -> None:
        """Answer calls of `HEALTH_PROCEDURE` from now on, those of this node alone."""
        self._prober = prober

    # -- what comes in ----------------------------------------------------------------------------------------------

    def _offer_to(self, origin: Origin, procedure: str) -> Offer | None:
        """What is offered under a name; that there is a health check is nobody's concern but the prober's."""
        if procedure != HEALTH_PROCEDURE:
            return self._offers.get(procedure)
        return self._health if self._prober is not None and origin.node_id == self._prober else None

    def _on_call(self, link: Link, call: wire.Call) -> None:
        self.take(Incoming.bare(link, call))

    def take(self, incoming: Incoming) -> None:
        """Refuse a call at once, answer it from memory, or start its handler."""
        call, key, now = incoming.call, incoming.key, trio.current_time()
        offer = self._offer_to(incoming.origin, call.procedure)
        if offer is None:
            incoming.answer(error_reply(call.call_id, "no_handler", f"no handler for {call.procedure!r}"))
            return
        if not self._is_allowed(offer, call.procedure, incoming.origin):
            incoming.answer(error_reply(call.call_id, "forbidden", f"{call.procedure} is not for this caller"))
            return
        takes_new = not self._is_draining or offer is self._health  # who drains is well
        verdict = self._ledger.admit(key, now, takes_new=takes_new)
        if isinstance(verdict, wire.Reply):
            incoming.answer(verdict)
        elif verdict == "busy":
            incoming.answer(error_reply(call.call_id, "busy", "too many calls are running"))
        elif verdict == "draining":
            self._turned_away += 1
            incoming.answer(error_reply(call.call_id, "draining", "the node is draining"))
        elif verdict == "run":
            settings = self._settings
            granted = granted_s(call.timeout, default_s=settings.timeout_default_s, ceiling_s=settings.timeout_max_s)
            task = f"call {call.procedure}"
            if not self._background.start_soon(self._serve_call, incoming, offer, now + granted, name=task):
                self._ledger.finish(key)
                incoming.answer(error_reply(call.call_id, "draining", "the node is closing"))

    def _is_allowed(self, offer: Offer, procedure: str, origin: Origin) -> bool:
        """Judge who calls, before anything of the call is read and before it takes anybody's place."""

        def note_failure(error: Exception) -> None:
            logger.error("allow of %s failed, which is a refusal", procedure, exc_info=error)

        # A forwarded call that is taken still passes no ``allow``: nobody has proven to have made it.
        is_taken = offer.allow_routed or not origin.forwarded
        if is_taken and offer.allowance.permits(origin.node_id, failed=note_failure):
            return True
        self._forbidden += 1
        self._events.emit(
            "rpc.forbidden", procedure=procedure, caller=hex_or_none(origin.node_id), via=hex_or_none(origin.via)
        )
        return False

    def cancel(self, link: Link, cancel: wire.Cancel) -> None:
        """A caller, or who forwards its call, waits no longer."""
        scope = self._scopes.get(cancel_key(link, cancel))
        if scope is not None:
            scope.cancel()

    def _on_cast(self, link: Link, cast: wire.Cast) -> None:
        """A call without an answer: the same admission, nobody to tell."""
        offer = self._offers.get(cast.procedure)
        if offer is not None and not self._is_allowed(offer, cast.procedure, origin_of(link)):
            return
        call = wire.Call(
            call_id=self._random_bytes(CALL_ID_BYTES),
            procedure=cast.procedure,
            args=cast.args,
            content_type=cast.content_type,
            headers=cast.headers,
        )
        incoming = Incoming.bare(link, call)
        if offer is not None and self._is_draining:
            self._turned_away += 1
            offer = None
        if offer is None or self._ledger.admit(incoming.key, trio.current_time()) != "run":
            self._events.emit("rpc.cast_dropped", procedure=clip(cast.procedure))
        elif not self._background.start_soon(self._serve_cast, incoming, offer, name=f"cast {cast.procedure}"):
            self._ledger.finish(incoming.key)

    async def call_here(
        self, call_id: bytes, procedure: str, args: object, headers: Mapping[str, str] | None
    ) -> wire.Reply:
        """A call of our own to ourselves: the same admission and the same encoding, without a link.

        Nobody is asked whether we may: whoever runs the node has its handlers anyway.
        """
        offer = self._offers.get(procedure)
        await trio.lowlevel.checkpoint()
        if offer is None:
            return error_reply(call_id, "no_handler", f"no handler for {procedure!r}")
        content_type = CONTENT_OCTETS if isinstance(args, bytes) else CONTENT_MSGPACK
        call = wire.Call(
            call_id=call_id,
            procedure=procedure,
            args=encode_payload(args, content_type),
            content_type=content_type,
            headers=validate_headers(headers) if headers else None,
        )
        key = (self._own, call_id)
        if self._ledger.admit(key, trio.current_time()) != "run":
            return error_reply(call_id, "busy", "too many calls are running")
        # The caller's own scope is above this task; only the ceiling has to be added.
        ceiling = trio.current_time() + self._settings.timeout_max_s
        try:
            with self.handlers.one(offer, ceiling) as scope, scope:
                deadline = min(ceiling, trio.current_effective_deadline())
                return await self._run_handler(offer.handler, call, Origin(node_id=self._own), deadline)
        finally:
            self._ledger.finish(key)
        if (given_up := self._given_up(offer)) is not None:
            return error_reply(call_id, "cancelled", given_up)
        return error_reply(call_id, "timeout", "the handler did not finish in the time that there is at most")

    # -- handlers that run --------------------------------------------------------------------------------------------

    async def _serve_call(self, incoming: Incoming, offer: Offer, deadline: float) -> None:
        link, call, key = incoming.link, incoming.call, incoming.key
        started = trio.current_time()
        reply: wire.Reply | None = None
        try:
            with (self._probes if offer is self._health else self.handlers).one(offer, deadline) as scope:
                self._scopes[key] = scope
                gone = scope.cancel  # one object, so that it can be removed again
                link.add_close_callback(gone)
                try:
                    with scope:
                        answer = await self._run_handler(offer.handler, call, incoming.origin, deadline)
                        await link.wait_writable()  # large answers to many calls take turns, within the callers' time
                        reply = answer
                finally:
                    link.remove_close_callback(gone)
                    del self._scopes[key]
            if reply is None and trio.current_time() >= deadline:
                reply = error_reply(call.call_id, "timeout", "the handler did not finish in the caller's time")
            elif reply is None and (given_up := self._given_up(offer)) is not None:
                reply = error_reply(call.call_id, "cancelled", given_up)
        finally:
            self._ledger.finish(key, reply, size=reply_size(reply), deadline=deadline)
        self._events.emit(
            "rpc.served",
            procedure=call.procedure,
            call_id=call.call_id.hex(),
            caller=hex_or_none(incoming.origin.node_id),
            outcome="cancelled" if reply is None else "ok" if reply.error is None else reply.error.code,
            seconds=round(trio.current_time() - started, 6),
        )
        if reply is not None:
            incoming.answer(reply)
            if self._is_draining:
                self.last_answered[link.whole] = None

    def _given_up(self, offer: Offer) -> str | None:
        """Why handlers of a procedure were cancelled from our side; None when they were not."""
        if offer.ended:
            return "the procedure is no longer offered here"
        return "the node has left" if self.handlers.stopped else None

    async def _run_handler(self, handler: Handler, call: wire.Call, origin: Origin, deadline: float) -> wire.Reply:
        """The handler boundary: whatever a handler raises becomes an answer, and harms nothing else."""
        try:
            args = decode_payload(call.args, call.content_type)
        except RemoteProtocolError as exc:
            return error_reply(call.call_id, "bad_payload", str(exc))
        self._events.emit("rpc.started", procedure=call.procedure, call_id=call.call_id.hex())
        try:
            result = await handler(
                Call(
                    args=args,
                    caller=origin.node_id,
                    procedure=call.procedure,
                    headers=call.headers or {},
                    call_id=call.call_id,
                    deadline=deadline,
                    via=origin.via,
                )
            )
            content_type = CONTENT_OCTETS if isinstance(result, bytes) else answer_type(call.content_type)
            payload = encode_payload(result, content_type)
            reply = wire.Reply(call_id=call.call_id, result=payload, content_type=content_type)
            encode_message(reply)  # too large for a frame: an error of the handler's, not of the link's
            return reply
        except Reject as exc:
            return rejection_reply(call.call_id, exc)
        except BaseExceptionGroup as group:  # out of a nursery in the handler; may hold our own Cancelled
            urgent, failures = group.split((trio.Cancelled, KeyboardInterrupt, SystemExit))
            if failures is not None:
                self._note_failure(call.procedure, failures)
            if urgent is not None:
                raise urgent from None
        except Exception as exc:  # the handler is the application's; its traceback is for its log, not for the wire
            self._note_failure(call.procedure, exc)
        return error_reply(call.call_id, "internal_error", "the handler failed")

    def _note_failure(self, procedure: str, error: BaseException) -> None:
        logger.error("handler of %s failed", procedure, exc_info=error)
        self._events.emit("rpc.handler_failed", procedure=procedure)

    async def _serve_cast(self, incoming: Incoming, offer: Offer) -> None:
        deadline = trio.current_time() + self._settings.timeout_default_s
        try:
            with self.handlers.one(offer, deadline) as scope, scope:
                await self._run_handler(offer.handler, incoming.call, incoming.origin, deadline)
        finally:
            self._ledger.finish(incoming.key)


async def _answer_probe(call: Call) -> object:
    await trio.lowlevel.checkpoint()
    return call.args
