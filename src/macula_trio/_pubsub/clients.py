"""Clients of v0.8: SUBSCRIBE, UNSUBSCRIBE and PUBLISH on a link, in place of adverts in the DHT (DESIGN section 4).

A client gets a PUBLISH for each message that one of its patterns wants, on the stream where it subscribed, until it
unsubscribes or its link ends.  Towards the mesh we stand for our clients: each of their patterns is advertised once,
by a task of the node, however many want it.  Nobody confirms anything here; what is refused or dropped is counted and
told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import NodeId, hex_or_none
from macula_trio._peer.handshake import MSGPACK
from macula_trio._pubsub.adverts import Place, key_of, metadata_of, place_of, require_room
from macula_trio._pubsub.index import PatternIndex
from macula_trio._pubsub.outgoing import as_in_v08, in_json
from macula_trio._pubsub.topics import is_pattern, validate_pattern
from macula_trio._util import clip
from macula_trio._wire import messages as wire
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import LocalProtocolError, MeshError, PeerUnavailable, RemoteProtocolError

CLIENTS_MAX: Final = 1024  # links with a subscription; more than a node has links in a mesh
PATTERNS_PER_CLIENT_MAX: Final = 64  # what one value of the DHT takes of one prefix
# Advertised for all clients together: half of the keys that replicas hold for one owner, the rest is the application's.
PATTERNS_MAX: Final = 512


@attrs.define(eq=False)
class _Wish:
    """One pattern of one client, and the stream on which it asked for it."""

    client: _Client
    stream: Link


@attrs.define(eq=False)
class _Client:
    """A link with at least one subscription."""

    link: Link
    wishes: dict[str, _Wish] = attrs.field(factory=dict)
    ended: Callable[[], None] = lambda: None


class Clients:
    """Who has subscribed on a link.

    Args:
      own: our id.
      transport: hands us SUBSCRIBE and UNSUBSCRIBE.
      directory: where we stand for our clients.
      background: takes one task for each pattern.
      events: told of everything that comes to nothing.
      beside: the patterns of this node's own that share a value of the DHT with one.
      windows_in: how many windows of this node's own subscriptions lie in a place.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        directory: Directory,
        background: Background,
        events: EventBus,
        beside: Callable[[str], Iterable[str]],
        windows_in: Callable[[Place], int],
    ) -> None:
        self._own = own
        self._directory = directory
        self._background = background
        self._events = events
        self._beside = beside
        self._windows_in = windows_in
        self._clients: dict[Link, _Client] = {}
        self._index = PatternIndex[_Wish]()
        self._kept: dict[str, trio.CancelScope] = {}
        self._dropped = 0
        transport.handle(wire.Subscribe, self._on_subscribe)
        transport.handle(wire.Unsubscribe, self._on_unsubscribe)

    @property
    def count(self) -> int:
        """Links with a subscription."""
        return len(self._clients)

    @property
    def dropped(self) -> int:
        """Messages that did not reach a client, and those of clients that did not reach the mesh."""
        return self._dropped

    def beside(self, pattern: str) -> list[str]:
        """The patterns of clients that have the same prefix as one with a wildcard."""
        return self._index.beside(pattern)

    def want(self, topic: str) -> bool:
        """Whether a client wants a topic."""
        return bool(self._index.wanting(topic))

    # -- what clients say ---------------------------------------------------------------------------------------------

    def _on_subscribe(self, link: Link, subscribe: wire.Subscribe) -> None:
        client = self._client_of(link)
        for pattern in dict.fromkeys(subscribe.topics):
            if client is not None and pattern in client.wishes:
                client.wishes[pattern].stream = link  # asked for anew, maybe on another stream
                continue
            try:
                self._require_room(client, pattern)
            except ValueError as exc:
                self._events.emit("pubsub.client_refused", **_who(link), pattern=clip(pattern), reason=clip(str(exc)))
                continue
            if client is None:
                client = self._welcome(link.whole)
            self._add(client, pattern, link)

    def _on_unsubscribe(self, link: Link, unsubscribe: wire.Unsubscribe) -> None:
        client = self._client_of(link)
        if client is None:
            return
        for pattern in unsubscribe.topics:
            if pattern in client.wishes:
                self._remove(client, pattern)
        if not client.wishes:
            client.link.remove_close_callback(client.ended)
            del self._clients[client.link]

    def _client_of(self, link: Link) -> _Client | None:
        """A stranger is a client of one link; a proven peer is the same one on the link that has replaced another."""
        client = self._clients.get(link.whole)
        if client is not None or not link.verified:
            return client
        same = (other for other in self._clients.values() if other.link.verified and other.link.node_id == link.node_id)
        return next((other for other in same if not other.link.is_closed), None)

    def _require_room(self, client: _Client | None, pattern: str) -> None:
        """Refuse what is no pattern, and what would be too much.

        Raises:
          ValueError: one line with the reason.
        """
        validate_pattern(pattern)
        if client is None and len(self._clients) >= CLIENTS_MAX:
            raise ValueError(f"{CLIENTS_MAX} clients have subscribed already")
        if client is not None and len(client.wishes) >= PATTERNS_PER_CLIENT_MAX:
            raise ValueError(f"this client has {PATTERNS_PER_CLIENT_MAX} patterns already")
        if pattern in self._kept:
            return
        if len(self._kept) >= PATTERNS_MAX:
            raise ValueError(f"all clients together have {PATTERNS_MAX} patterns already")
        if is_pattern(pattern):
            windows = self._windows_in(place_of(pattern, self._own))
            require_room([*self._beside(pattern), *self._index.beside(pattern)], pattern, windows=windows)

    def _welcome(self, link: Link) -> _Client:
        client = self._clients[link] = _Client(link)

        def ended() -> None:
            del self._clients[link]
            for pattern in list(client.wishes):
                self._remove(client, pattern)

        client.ended = ended
        link.add_close_callback(ended)
        return client

    def _add(self, client: _Client, pattern: str, stream: Link) -> None:
        wish = client.wishes[pattern] = _Wish(client, stream)
        if self._index.add(pattern, wish):
            scope = self._kept[pattern] = trio.CancelScope()
            self._background.start_soon(self._stand_for, pattern, scope, name=f"subscribe {pattern} for clients")
        self._events.emit("pubsub.client_subscribed", **_who(stream), pattern=pattern)

    def _remove(self, client: _Client, pattern: str) -> None:
        if self._index.remove(pattern, client.wishes.pop(pattern)):
            self._kept.pop(pattern).cancel()
        self._events.emit("pubsub.client_unsubscribed", **_who(client.link), pattern=pattern)

    async def _stand_for(self, pattern: str, scope: trio.CancelScope) -> None:
        """Be found in the mesh as a subscriber to what clients want, until the last of them wants it no more."""
        key = key_of(place_of(pattern, self._own))
        with scope:
            try:
                async with self._directory.advertised(key, "subscriber", metadata_of(pattern)):
                    await trio.sleep_forever()
            except (LocalProtocolError, trio.ClosedResourceError) as exc:  # no room in the value, or we are closing
                self._events.emit("pubsub.client_unadvertised", pattern=pattern, reason=clip(str(exc)))

    # -- what they are told -------------------------------------------------------------------------------------------

    def deliver(self, message: wire.Publish) -> bool | None:
        """Send a message to each client that wants it, once.

        Returns:
          Whether every one of them was sent it; None when there is none.
        """
        everybody: bool | None = None
        served: dict[_Client, None] = {}
        for wish in self._index.wanting(message.topic):
            if wish.client not in served:
                served[wish.client] = None
                everybody = self._send(wish.stream, message) and everybody is not False
        return everybody

    def _send(self, stream: Link, message: wire.Publish) -> bool:
        if stream.is_congested:
            self.drop(stream, message, "congested")
            return False
        try:
            stream.send_nowait(_for(stream, message))
        except RemoteProtocolError:
            reason = "bad_payload"
        except (LocalProtocolError, PeerUnavailable) as exc:
            reason = _reason(exc)
        else:
            self._events.emit(
                "pubsub.client_sent", **_who(stream), topic=message.topic, message_id=message.message_id.hex()
            )
            return True
        self.drop(stream, message, reason)
        return False

    def drop(self, stream: Link, message: wire.Publish, reason: str) -> None:
        """Count and tell a message to or from a client that goes no further."""
        self._dropped += 1
        self._events.emit("pubsub.client_dropped", **_who(stream), topic=clip(message.topic), reason=reason)


def _for(stream: Link, message: wire.Publish) -> wire.Publish:
    if not stream.verified:
        return as_in_v08(message)
    return message if MSGPACK in stream.capabilities else in_json(message)


def _reason(error: MeshError) -> str:
    return "gone" if isinstance(error, PeerUnavailable) else "not_sendable"


def _who(link: Link) -> dict[str, str | None]:
    """A client as events tell it; the id of one that has proven nothing is a claim, and is not told."""
    return {"client": hex_or_none(link.node_id if link.verified else None), "host": link.peer_host}
