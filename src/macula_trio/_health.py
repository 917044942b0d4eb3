"""Whether a node is well, found out by a call to itself through its own socket.

Each check is what anybody would do who calls one of our procedures: a second socket, a connection to where we listen,
both proofs, a CALL that waits in the same queues and counts against the same limits as all others, and its answer.
So whatever keeps others from being answered keeps the check from it.  Only the DHT is left out: whether others find
us is theirs to say.

Who asks has a key of its own, made for the first check, and the node lets that key in whatever its policy is: nobody
else has it.  Who answers must be the node itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._identity.files import Identity
from macula_trio._ids import NodeId
from macula_trio._net.quic import QuicEndpoint
from macula_trio._peer.connector import ask_once
from macula_trio._peer.handshake import LEAF, MSGPACK, LocalParty
from macula_trio._rpc.calls import CALL_ID_BYTES
from macula_trio._rpc.offer import HEALTH_PROCEDURE
from macula_trio._trust import Trust
from macula_trio._util import Address, clip, is_unspecified
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_MSGPACK, encode_payload
from macula_trio.abc import DatagramNetwork
from macula_trio.errors import MeshError

HEALTH_DEADLINE_S: Final = 1.0  # of a check; an idle node takes 10 ms, and one that needs a second is of little use
HEALTH_VALID_S: Final = 1.0  # who asks again within it gets the same report: asking is no way to keep a node busy
INSTANCE_BYTES: Final = 16  # as of a node's


@attrs.frozen(kw_only=True)
class HealthReport:
    """What a check of a node has found.

    Attributes:
      ok: whether the node has answered its own call.
      seconds: how long that took, or how long it was waited for.
      reason: what was wrong, one line; None when nothing was.
    """

    ok: bool
    seconds: float
    reason: str | None = None


class HealthCheck:
    """The checks of one node, one at a time.

    Args:
      own: what the node says of itself, and whom it lets in.
      network: where sockets come from.
      events: where it is told that a check failed.
      random_bytes: for ids.
      make_identity: makes the prober's key.
      answer_probe: makes the node answer the prober, whose id it is given.
    """

    def __init__(
        self,
        own: LocalParty,
        *,
        network: DatagramNetwork,
        events: EventBus,
        random_bytes: Callable[[int], bytes],
        make_identity: Callable[[], Identity],
        answer_probe: Callable[[NodeId], None],
    ) -> None:
        self._own = own
        self._network = network
        self._events = events
        self._random_bytes = random_bytes
        self._make_identity = make_identity
        self._answer_probe = answer_probe
        self._prober: LocalParty | None = None
        self._running: trio.Event | None = None
        self._last: HealthReport | None = None
        self._last_at = 0.0

    async def check(self, endpoint: QuicEndpoint) -> HealthReport:
        """Give the report of a check that is under way or just over, or make one.

        Args:
          endpoint: which listens.
        """
        await trio.lowlevel.checkpoint()
        while self._running is not None:
            await self._running.wait()
        if self._last is not None and trio.current_time() - self._last_at < HEALTH_VALID_S:
            return self._last
        self._running = trio.Event()
        try:
            self._last = report = await self._check(endpoint)
            self._last_at = trio.current_time()
        finally:
            # A check that was cancelled leaves no report: the next of those who wait makes one.
            self._running.set()
            self._running = None
        if not report.ok:
            self._events.emit("health.failed", reason=report.reason, seconds=round(report.seconds, 6))
        return report

    async def _check(self, endpoint: QuicEndpoint) -> HealthReport:
        started = trio.current_time()
        reason: str | None = f"no answer within {HEALTH_DEADLINE_S:g} s"
        with trio.move_on_after(HEALTH_DEADLINE_S):
            reason = await self._ask(endpoint)
        return HealthReport(ok=reason is None, seconds=trio.current_time() - started, reason=reason)

    async def _ask(self, endpoint: QuicEndpoint) -> str | None:
        """What is wrong; None when the answer came and is right."""
        question = encode_payload(self._random_bytes(CALL_ID_BYTES).hex(), CONTENT_MSGPACK)
        call = wire.Call(
            call_id=self._random_bytes(CALL_ID_BYTES),
            procedure=HEALTH_PROCEDURE,
            args=question,
            timeout=round(HEALTH_DEADLINE_S * 1000),
            content_type=CONTENT_MSGPACK,
        )
        try:
            reply = await ask_once(
                self._network,
                self._party(),
                self._dialed(endpoint),
                expected=self._own.credentials.node_id,
                request=call,
                reply_type=wire.Reply,
                random_bytes=self._random_bytes,
            )
        except MeshError as exc:
            return clip(str(exc))
        except OSError as exc:
            return f"no socket to ask from: {clip(exc.strerror or str(exc))}"
        if reply.error is not None:
            return f"{reply.error.code}: {clip(reply.error.message)}"
        return None if reply.result == question else "the answer is not that of the question"

    def _party(self) -> LocalParty:
        """Who asks; made for the first check, so that a node which is never asked has nothing of it."""
        if self._prober is None:
            self._prober = LocalParty(
                credentials=self._make_identity(),
                instance=self._random_bytes(INSTANCE_BYTES),
                realm=self._own.realm,
                trust=Trust.only([self._own.credentials.node_id]),
                capabilities=(LEAF, MSGPACK),
            )
            prober = self._prober.credentials.node_id
            self._own.judge.expect_probe(prober)
            self._answer_probe(prober)
        return self._prober

    def _dialed(self, endpoint: QuicEndpoint) -> Address:
        """Where we listen, as it is dialed from this machine.

        Raises:
          OSError: a wildcard, and not even loopback is to be had.
        """
        host, port = endpoint.address
        if is_unspecified(host):
            host = "127.0.0.1" if endpoint.obstacle("127.0.0.1") is None else "::1"
            host = self._network.source_host((host, port))  # a simulated machine has no loopback, but an address
        return host, port
