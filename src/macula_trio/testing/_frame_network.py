"""The machines of a network of frames, its faults and its counts; who is reached at which endpoint."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs
import trio

from macula_trio._util import format_endpoint
from macula_trio.testing._faults import Conditions, LinkModel
from macula_trio.testing._faulty import FaultyNetwork
from macula_trio.testing._frame_streams import Paths
from macula_trio.testing.network import EPOCH_MS, FIRST_FREE_HOST, LAST_FREE_HOST

if TYPE_CHECKING:
    from macula_trio.testing.frames import FrameTransport

PORT: Final = 9443  # of every node


@attrs.frozen(kw_only=True)
class FrameStatistics:
    """What a network has carried so far.

    Attributes:
      frames: put on their way, parts of handshakes included.
      frame_bytes: of them.
      packets: sent, again ones included.
      resent: of them, sent again.
      held: had to wait because a host was clogged.
      lost: by reason: as in `macula_trio.testing.SimStatistics`; ``unreachable`` where nobody listens, ``gone`` where
        the link had ended.
    """

    frames: int
    frame_bytes: int
    packets: int
    resent: int
    held: int
    lost: Mapping[str, int]


class FrameNetwork(FaultyNetwork):
    """The machines and what is between them; `serve` must run for anything to arrive.

    Args:
      seed: of all chance.
      link: the path between any two hosts; `set_link` makes exceptions.

    Attributes:
      seed: the same.
    """

    def __init__(self, *, seed: int = 0, link: LinkModel | None = None) -> None:
        self.seed = seed
        conditions = Conditions(seed, link or LinkModel())
        self.paths: Paths = Paths(conditions)
        super().__init__(conditions, self.paths.release)
        self._endpoints: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._transports: dict[str, FrameTransport] = {}
        self._runs: dict[str, int] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver everything that anybody sends, until cancelled."""
        await self.paths.serve(task_status=task_status)

    @property
    def is_served(self) -> bool:
        """Whether `serve` is running."""
        return self.paths.is_served

    def statistics(self) -> FrameStatistics:
        """Counts so far."""
        counts = self.paths.counts
        return FrameStatistics(
            frames=counts.frames,
            frame_bytes=counts.frame_bytes,
            packets=counts.packets,
            resent=counts.resent,
            held=counts.held,
            lost=dict(sorted(counts.lost.items())),
        )

    def wall_clock_ms(self) -> int:
        """A fixed epoch plus virtual time."""
        return EPOCH_MS + round(trio.current_time() * 1000)

    # -- hosts ----------------------------------------------------------------------------------------------------

    def endpoint_of(self, name: str) -> str:
        """Where the node on this host can be dialed; always the same for one name.

        Raises:
          ValueError: no address is free.
        """
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            number = FIRST_FREE_HOST + len(self._endpoints)
            if number >= LAST_FREE_HOST:
                raise ValueError("no address is free")
            endpoint = self._endpoints[name] = format_endpoint((str(ipaddress.IPv4Address(number)), PORT))
            self._names[endpoint] = name
        return endpoint

    def name_at(self, endpoint: str) -> str:
        """Name of the host at an endpoint; the endpoint itself where there is none."""
        return self._names.get(endpoint, endpoint)

    def transport_at(self, endpoint: str) -> FrameTransport | None:
        """Who listens there."""
        return self._transports.get(endpoint)

    def attach(self, transport: FrameTransport) -> None:
        """Let a transport be dialed.

        Raises:
          OSError: another one is there.
        """
        if transport.address in self._transports:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {transport.address}: Address already in use")
        self._transports[transport.address] = transport

    def detach(self, transport: FrameTransport) -> None:
        """Undo `attach`."""
        if self._transports.get(transport.address) is transport:
            del self._transports[transport.address]

    def count_run(self, name: str) -> int:
        """How often a node was opened on this host, this time included: its chance is another each time."""
        self._runs[name] = self._runs.get(name, 0) + 1
        return self._runs[name]
