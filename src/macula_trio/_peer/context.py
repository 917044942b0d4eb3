"""What all links of a node share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from macula_trio._events import EventBus
from macula_trio._peer.handshake import LocalParty, RemoteParty
from macula_trio._util import Address
from macula_trio.abc import Message, MessageHandler

if TYPE_CHECKING:
    from macula_trio._peer.link import QuicLink

KEEPALIVE_S: Final = 10.0  # as `NodeConfig` has it
SELVES_MAX: Final = 64  # connections with ourselves that are remembered until our other end has heard of it


@attrs.define(eq=False)
class LinkCounters:
    """Of all links of a node.  Only ever grows."""

    sent: Counter[str] = attrs.field(factory=Counter)
    received: Counter[str] = attrs.field(factory=Counter)
    unknown_type: int = 0
    unexpected: int = 0
    unhandled: int = 0
    excess: int = 0
    migrated: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    opened: int = 0
    closed: Counter[str] = attrs.field(factory=Counter)


def _nothing(*_: object) -> None:
    """For whom nobody needs to be told."""


def _none(_: object) -> Iterable[QuicLink]:
    """Of a link that is the only one."""
    return ()


@attrs.define(eq=False, kw_only=True)
class LinkContext:
    """What all links of a node share.

    Attributes:
      party: what we say of ourselves.
      handlers: who takes the messages that peers send on their own.
      wall_clock_ms: Unix time, for PONG's ``server_time`` and the dates of certificates.
      keepalive_s: how long a peer may be silent before it is asked for a sign of life.
      admit: asked about a peer whose proof is good, before it is answered; raises `TrustError` to refuse it.
      offended: called when a peer broke the rules of the wire, or brought a false proof.
      opened: called when a link becomes live.
      closed: called when a link that was live has ended.
      ending: called when the peer sends nothing new on a link any more.
      alive: called when a peer has answered a PING of ours.
      siblings: the other live links to the proven peer of one.
      observed: told where a proven peer that we dialed says that it sees us.
    """

    party: LocalParty
    handlers: Mapping[type[Message], MessageHandler[Any]]
    wall_clock_ms: Callable[[], int]
    events: EventBus
    keepalive_s: float = KEEPALIVE_S
    admit: Callable[[RemoteParty], None] = _nothing
    offended: Callable[[QuicLink], None] = _nothing
    opened: Callable[[QuicLink], None] = _nothing
    closed: Callable[[QuicLink], None] = _nothing
    ending: Callable[[QuicLink], None] = _nothing
    alive: Callable[[QuicLink], None] = _nothing
    siblings: Callable[[QuicLink], Iterable[QuicLink]] = _none
    observed: Callable[[QuicLink, Address], None] = _nothing
    counters: LinkCounters = attrs.field(factory=LinkCounters)
    _selves: dict[bytes, None] = attrs.field(factory=dict, init=False)

    def note_self(self, binding: bytes) -> None:
        """Note a connection on whose other end we are ourselves."""
        self._selves[binding] = None
        if len(self._selves) > SELVES_MAX:
            del self._selves[next(iter(self._selves))]

    def is_self(self, binding: bytes) -> bool:
        """Whether we are on both ends of a connection; what its other end says is a claim."""
        return binding in self._selves
