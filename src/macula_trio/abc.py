"""The seams: what may be replaced, and by whom.

`DatagramNetwork` is the seam for simulation (real UDP, or `macula_trio.testing.SimNetwork`), so replays
run the very code that production runs.  `Link` and `LinkTransport` are what the services (DHT, calls,
messages) see of other nodes: over QUIC in production, frame by frame in large simulations.
DESIGN sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Literal, Protocol, TypeAlias, TypeVar

from macula_trio._ids import Advert, Contact, NodeId
from macula_trio._util import Address, Path

__all__ = [
    "Address",
    "DatagramNetwork",
    "DatagramSocket",
    "Directory",
    "Link",
    "LinkTransport",
    "Message",
    "MessageHandler",
    "Path",
    "Redialer",
    "Storage",
]


class Message:
    """Base of the typed messages: one frozen class per type on the wire (`macula_trio._wire.messages`)."""

    __slots__ = ()


ReplyT = TypeVar("ReplyT", bound=Message)
MessageT = TypeVar("MessageT", bound=Message)


class DatagramSocket(Protocol):
    """A bound UDP socket, or its image in a simulation."""

    @property
    def address(self) -> Address:
        """Where it is bound; the port is never 0."""
        ...

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that could not be sent (full buffer, too big, unreachable): counted, never raised."""
        ...

    @property
    def large_datagrams(self) -> bool:
        """Whether its buffers bear bursts of 16,000-byte datagrams on loopback."""
        ...

    def obstacle(self, host: str) -> str | None:
        """Why nothing from here will ever reach a numeric host, in words with the mend; None when it may.

        Such as an IPv6 address for a socket of IPv4: who asks before need not wait for an answer in vain.
        """
        ...

    def recv_batch(self) -> Sequence[tuple[bytes, Path]]:
        """Take what has arrived, at most 64 datagrams, without waiting; maybe nothing.

        A socket that has several addresses says with each datagram to which of them it came.
        """
        ...

    def send_batch(self, datagrams: Iterable[tuple[bytes, Path]]) -> None:
        """Send now or lose; a loss is counted in `datagrams_lost`.

        From the address of ours that a path names, or as the system likes when it names none, or has lost it.
        """
        ...

    async def wait_readable(self) -> None:
        """Wait until `recv_batch` may have something.  Always a checkpoint."""
        ...

    def close(self) -> None:
        """Give the port back.  A task in `wait_readable` gets `trio.ClosedResourceError`."""
        ...


class Storage(Protocol):
    """Small tables of bytes that may outlive a node: the values that it holds for others.

    Read once when the node starts; `put` never waits, so an implementation on a disk writes behind the scenes.
    """

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        """Everything in a table, in the order in which the keys first came."""
        ...

    def put(self, table: str, key: bytes, value: bytes | None) -> None:
        """Keep ``value`` under ``key`` instead of what was there; None removes it."""
        ...


class DatagramNetwork(Protocol):
    """Where sockets, names, storage and the wall clock come from."""

    async def bind(self, address: Address) -> DatagramSocket:
        """Open a socket; port 0 takes a free one, ``::`` takes IPv4 too where the system lets us.

        Raises:
          OSError: the address is in use or not ours; the message names it and the reason.
        """
        ...

    async def resolve(self, host: str) -> Sequence[str]:
        """Turn a host name into its numeric addresses, the best first; a numeric one comes back in its one spelling.

        Raises:
          OSError: no such name.
        """
        ...

    def source_host(self, peer: Address) -> str:
        """Our numeric address on the route to ``peer``; nothing is sent.

        Raises:
          OSError: no route.
        """
        ...

    def wall_clock_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    async def open_storage(self, name: str) -> Storage:
        """Open what a node of this name kept when it last ran on this machine; empty the first time."""
        ...


class Link(Protocol):
    """A live relationship with one peer, over one connection."""

    @property
    def node_id(self) -> NodeId | None:
        """The peer's proven id; for an unverified peer the id that it claims, or None."""
        ...

    @property
    def verified(self) -> bool:
        """Whether the peer proved its id.  False only under `Trust.unverified`."""
        ...

    @property
    def endpoint(self) -> str | None:
        """Where the peer says that it can be dialed."""
        ...

    @property
    def proven_endpoint(self) -> str | None:
        """The announced endpoint when this very link shows that it reaches the peer, else None."""
        ...

    @property
    def dialed_endpoint(self) -> str | None:
        """Where we dialed it; None when the peer dialed us."""
        ...

    @property
    def peer_host(self) -> str:
        """The numeric address that its datagrams come from, without a port."""
        ...

    @property
    def whole(self) -> Link:
        """The link itself, of which this may be the view of one stream."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What the peer announced, such as ``"leaf"`` or ``"msgpack"``."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it has ended; it never comes back."""
        ...

    @property
    def is_congested(self) -> bool:
        """Whether the peer has yet to take what was sent before: `wait_writable` would wait."""
        ...

    @property
    def peer_is_leaving(self) -> bool:
        """Whether the peer ended the link because it leaves the mesh."""
        ...

    def send_nowait(self, message: Message) -> None:
        """Put one message on the way, behind those sent before; never waits.

        Raises:
          NotSent: the link has ended.
          PayloadTooLarge: it does not fit into a frame.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until the peer has taken most of what was sent: backpressure for whoever can wait.

        Always a checkpoint.  Returns also when the link ends.
        """
        ...

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        """Send a request and wait for its reply; the caller's cancel scope bounds the wait.

        Raises:
          NotSent: the link had ended before the request left, or too many requests are waiting.
          PeerUnavailable: the link ended before the reply came.
          RemoteProtocolError: the reply was of another type.
        """
        ...

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the link ends; at once if it has."""
        ...

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Forget a callback that was added; nothing happens if it is not there."""
        ...


MessageHandler: TypeAlias = Callable[[Link, MessageT], None]
"""Takes a message that a peer sent on its own; must not block; answers on the link it is given."""


class LinkTransport(Protocol):
    """Where links come from."""

    async def link_to(self, contact: Contact) -> Link:
        """The live link to this node, dialing its endpoint when there is none.

        Raises:
          PeerUnavailable: it cannot be reached.
          TrustError: somebody else answered, or the trust policy refuses.
        """
        ...

    async def dial_endpoint(self, endpoint: str, *, expected: NodeId | None = None, trusted: bool = False) -> Link:
        """A new link to whoever answers at a numeric endpoint, even when its node has a link already.

        Args:
          endpoint: numeric ``host:port``.
          expected: whom we dial for, if known.
          trusted: our own configuration names it; others are not dialed again and again when they fail.

        Raises:
          PeerUnavailable: nobody answers there.
          TrustError: somebody else than ``expected`` answered, or one side refuses the other.
        """
        ...

    def live_link(self, node_id: NodeId) -> Link | None:
        """The live link to this node, if there is one."""
        ...

    def handle(self, message_type: type[MessageT], handler: MessageHandler[MessageT]) -> None:
        """Hand messages of this type that peers send on their own to ``handler``; one per type."""
        ...


class Redialer(Protocol):
    """Dials nodes again whose links were lost."""

    def want(
        self, contact: Contact, locate: Callable[[], Awaitable[str | None]] | None = None
    ) -> AbstractContextManager[None]:
        """Keep a link to this node for the length of the block, once there was one.

        Args:
          contact: whom.
          locate: asked before each dial; the numeric endpoint where it is now, None when it has none.  Without, it is
            dialed where it was.
        """
        ...


class Directory(Protocol):
    """Who offers a procedure, who wants a topic: what calls and messages see of the DHT."""

    async def find(self, key: bytes, kind: Literal["service", "subscriber"]) -> list[Advert]:
        """The nodes that have advertised under a key, nearest to the key first; maybe none."""
        ...

    def advertised(
        self, key: bytes, kind: Literal["service", "subscriber"], metadata: Mapping[str, object]
    ) -> AbstractAsyncContextManager[None]:
        """Be found under a key for the length of the block.

        Several blocks for one key and kind share one value: lists that they attach under one name are joined, of
        anything else the first counts.  Entering returns when the closest nodes have answered for a value that has
        everything; leaving withdraws it behind the scenes, or stores what is left.

        Raises:
          ValueError, LocalProtocolError: such a value cannot be stored.
        """
        ...
