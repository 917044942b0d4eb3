"""A call that came on a link: who makes it, what it is known by, and which way its answer goes back.

Sans-IO.
"""

from __future__ import annotations

import attrs

from macula_trio._ids import NodeId
from macula_trio._rpc.calls import CallKey
from macula_trio._rpc.replies import error_reply
from macula_trio._wire import messages as wire
from macula_trio._wire.envelope import HOPS_MAX, Origin, origin_of
from macula_trio.abc import Link, Message
from macula_trio.errors import PayloadTooLarge


@attrs.frozen(kw_only=True, eq=False)
class Incoming:
    """One call on its way in; made by `bare` or `in_envelope`.

    Attributes:
      call: as it came.
      link: where it came from, and where its answer goes.
      origin: who makes it, as far as that is proven.
      key: what the ledger knows it by.
    """

    call: wire.Call
    link: Link
    origin: Origin
    key: CallKey
    _ends: tuple[NodeId, bytes] | None = None  # of the envelope around the answer: ourselves, and who asked

    @classmethod
    def bare(cls, link: Link, call: wire.Call) -> Incoming:
        """A CALL of the peer's own."""
        return cls(call=call, link=link, origin=origin_of(link), key=(payer_of(link), call.call_id))

    @classmethod
    def in_envelope(cls, link: Link, call: wire.Call, source: bytes, *, own: NodeId) -> Incoming:
        """A CALL out of an RPC_ROUTE that names ``source`` as its caller."""
        origin = origin_of(link, source)
        # A forwarded call runs on its forwarder's account, and its id is apart from those of the forwarder's own
        # calls and of other sources: nobody gets an answer, or cancels a call, by claiming to be somebody.
        call_id = (source, call.call_id) if origin.forwarded else call.call_id
        return cls(call=call, link=link, origin=origin, key=(payer_of(link), call_id), ends=(own, source))

    def answer(self, reply: wire.Reply) -> None:
        """Send the answer the way that the call came; nobody gets it when the link has ended."""
        if self.link.is_closed:
            return
        try:
            self.link.send_nowait(self._framed(reply))
        except PayloadTooLarge:
            # It fits into a frame, or its handler would have failed; the envelope around it is what is too much.
            text = "the result is too large for an envelope"
            self.link.send_nowait(self._framed(error_reply(reply.call_id, "internal_error", text)))

    def _framed(self, reply: wire.Reply) -> Message:
        if self._ends is None:
            return reply
        own, asker = self._ends
        return wire.RpcRoute(
            destination_node_id=asker,
            source_node_id=own,
            hop_count=0,
            max_hops=HOPS_MAX,
            payload_type="reply",
            payload=reply,
        )


def cancel_key(link: Link, cancel: wire.Cancel) -> CallKey:
    """What the ledger knows the call by that a peer cancels; the same as the call's `Incoming.key`."""
    source = cancel.source_node_id
    forwarded = source is not None and origin_of(link, source).forwarded
    return payer_of(link), (source, cancel.call_id) if source is not None and forwarded else cancel.call_id


def payer_of(link: Link) -> object:
    """On whose account a call runs, and who may cancel it: the proven id, or the link of somebody unproven."""
    return link.node_id if link.verified else link.whole
