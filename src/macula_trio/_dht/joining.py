"""Finding the mesh by its bootstrap nodes, and finding it again when everybody is gone (DESIGN section 8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial

import attrs
import trio

from macula_trio._background import Background
from macula_trio._dht.client import Bootstrap, DhtClient
from macula_trio._dht.table import RoutingTable
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.backoff import Backoff
from macula_trio._race import first_success
from macula_trio.abc import LinkTransport, Redialer
from macula_trio.errors import MeshError, NotSent, OwnIdentity, PeerUnavailable, TrustError


@attrs.define(eq=False)
class _JoinAttempt:
    """Several bootstrap nodes dialed at once: decided by the first success, or by the last failure."""

    remaining: int
    succeeded: bool = False
    errors: list[MeshError] = attrs.field(factory=list)
    decided: trio.Event = attrs.field(factory=trio.Event)

    def note(self, error: MeshError | None) -> None:
        self.remaining -= 1
        if error is None:
            self.succeeded = True
        else:
            self.errors.append(error)
        if self.succeeded or not self.remaining:
            self.decided.set()

    @property
    def refusal(self) -> MeshError | None:
        """Why trying again is of no use: everybody answered and refused, or cannot be reached from our socket."""
        return self.errors[0] if all(isinstance(error, (TrustError, NotSent)) for error in self.errors) else None


class Joining:
    """Dials bootstrap nodes until there is a mesh around us.

    Attributes:
      joined: set once another node was found, or there is none to look for.
      failures: why a bootstrap node could not be joined by when it was last dialed, by its endpoint as configured.

    Args:
      own: our id.
      bootstraps: the nodes to join by, without ourselves.
      transport: where links come from.
      client: looks our own id up; told of bootstrap nodes that have answered.
      table: whom we know.
      events: where joins are told.
      random_fraction: a random number in [0, 1), for jitter.
      resolve: gives the numeric endpoints that one stands for now, the best first; raises `OSError`.
      background: takes the dials.
      redialer: told of the nodes by which we have joined, whose links are wanted from then on; None without links.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        bootstraps: list[Bootstrap],
        transport: LinkTransport,
        client: DhtClient,
        table: RoutingTable,
        events: EventBus,
        random_fraction: Callable[[], float],
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        background: Background,
        redialer: Redialer | None = None,
    ) -> None:
        self._own = own
        self._bootstraps = bootstraps
        self._transport = transport
        self._client = client
        self._table = table
        self._events = events
        self._random_fraction = random_fraction
        self._resolve = resolve
        self._background = background
        self._redialer = redialer
        self._wants: dict[str, tuple[NodeId, ExitStack]] = {}  # by the endpoint that was configured
        self.joined = trio.Event()
        self.failures: dict[str, str] = {}
        self._decided = trio.Event()  # joined, or refused for good
        self._refusal: MeshError | None = None
        self._met = trio.Event()  # somebody entered the table

    def met(self) -> None:
        """Somebody has entered the table."""
        self._met.set()

    async def wait_joined(self) -> None:
        """Wait until another node was found, or there is none to look for."""
        await self.joined.wait()

    async def wait_joined_or_refused(self) -> None:
        """The same, but do not wait for nodes that have all refused us, or that we cannot reach from our socket.

        Raises:
          TrustError: they have.
          PeerUnavailable: we cannot.
        """
        await self._decided.wait()
        if not self.joined.is_set() and self._refusal is not None:
            raise self._refusal
        await self.joined.wait()

    async def keep_joined(self, renew_all: Callable[[], None]) -> None:
        """Find the mesh, and find it again when everybody is gone, until cancelled.

        Args:
          renew_all: called after each time, for what is to be stored anew.
        """
        try:
            await self._join_again_and_again(renew_all)
        finally:
            for _, want in self._wants.values():
                want.close()
            self._wants.clear()

    async def _join_again_and_again(self, renew_all: Callable[[], None]) -> None:
        pauses = Backoff[None, None]()
        while self._bootstraps:
            # Before anything that can change it: whoever is lost from now on is noticed.
            self._client.alone, self._met = trio.Event(), trio.Event()
            if await self._dial_bootstraps() or len(self._table):
                await self._client.find_node(self._own)
                self._note_joined()
                renew_all()
                pauses.succeeded(None)
                await self._client.alone.wait()
            pause_s = pauses.failed(None, trio.current_time(), self._random_fraction(), None)
            with trio.move_on_after(pause_s):
                await self._met.wait()  # somebody found us
        self._note_joined()  # we are the only bootstrap that we know
        await trio.sleep_forever()

    def _note_joined(self) -> None:
        self.joined.set()
        self._decided.set()
        self._events.emit("node.joined", nodes=len(self._table))

    async def _dial_bootstraps(self) -> bool:
        """Dial all of them; True as soon as one has proven itself, the others come in behind the scenes."""
        attempt = _JoinAttempt(len(self._bootstraps))
        for entry in self._bootstraps:
            self._background.start_soon(self._dial_bootstrap, entry, attempt, name=f"join by {entry.endpoint}")
        await attempt.decided.wait()
        if not attempt.succeeded:
            self._refusal = attempt.refusal
            self._decided.set()
        return attempt.succeeded

    async def _dial_bootstrap(self, entry: Bootstrap, attempt: _JoinAttempt) -> None:
        async def dial(endpoint: str) -> Contact:
            link = await self._transport.dial_endpoint(endpoint, expected=entry.node_id, trusted=True)
            if link.node_id is None:
                raise TrustError(f"bootstrap {entry.endpoint} does not say who it is")
            return Contact(node_id=link.node_id, endpoint=endpoint)

        try:
            contact = await first_success(await self._resolve(entry.endpoint), dial)
        except OSError as exc:
            self._note_failure(entry, attempt, PeerUnavailable(str(exc)))
        except (PeerUnavailable, TrustError) as exc:
            if isinstance(exc, OwnIdentity) and entry in self._bootstraps:
                self._bootstraps.remove(entry)  # ourselves, by another address
            self._note_failure(entry, attempt, exc)
        else:
            self.failures.pop(entry.endpoint, None)
            self._client.entry_points[contact.node_id] = contact
            self._want(entry, contact)
            attempt.note(None)

    def _want(self, entry: Bootstrap, contact: Contact) -> None:
        """Let its link be dialed again when it is lost, though there may be others."""
        before = self._wants.get(entry.endpoint)
        if self._redialer is None or (before is not None and before[0] == contact.node_id):
            return
        if before is not None:
            before[1].close()  # another node has taken its place
        want = ExitStack()
        want.enter_context(self._redialer.want(contact, partial(self._locate, entry)))
        self._wants[entry.endpoint] = contact.node_id, want

    async def _locate(self, entry: Bootstrap) -> str | None:
        try:
            return next(iter(await self._resolve(entry.endpoint)), None)
        except OSError:
            return None  # it is tried where it was

    def _note_failure(self, entry: Bootstrap, attempt: _JoinAttempt, error: MeshError) -> None:
        self.failures[entry.endpoint] = str(error)
        self._events.emit("node.bootstrap_failed", endpoint=entry.endpoint, reason=str(error))
        attempt.note(error)
