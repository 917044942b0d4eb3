"""The machines of a network of frames, its faults and its counts; who is reached at which endpoint."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import attrs
import trio

from macula_trio._events import Fact
from macula_trio._util import format_endpoint
from macula_trio.testing._faults import Conditions, LinkModel, host_names, model_facts
from macula_trio.testing._frame_streams import Paths
from macula_trio.testing.network import EPOCH_MS, FIRST_FREE_HOST, LAST_FREE_HOST, FaultListener

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


class FrameNetwork:
    """The machines and what is between them; `serve` must run for anything to arrive.

    Args:
      seed: of all chance.
      link: the path between any two hosts; `set_link` makes exceptions.

    Attributes:
      seed: the same.
      conditions: what the network is like now; changed here, nobody is told.
    """

    def __init__(self, *, seed: int = 0, link: LinkModel | None = None) -> None:
        self.seed = seed
        self.conditions = Conditions(seed, link or LinkModel())
        self.paths = Paths(self.conditions)
        self._endpoints: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._transports: dict[str, FrameTransport] = {}
        self._listeners: list[FaultListener] = []
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

    # -- faults ---------------------------------------------------------------------------------------------------

    def set_link(self, model: LinkModel, source: str | None = None, target: str | None = None) -> None:
        """Change the paths from one host to another; None stands for any (see `Conditions.set_model`)."""
        self.conditions.set_model(model, source, target)
        self.tell("fault.link", source=source, target=target, **model_facts(model))

    def partition(self, side: Iterable[str], others: Iterable[str] | None = None, *, one_way: bool = False) -> None:
        """Lose what is sent between two groups of hosts from now on (see `Conditions.partition`)."""
        apart, rest = host_names(side), None if others is None else host_names(others)
        self.conditions.partition(apart, rest, one_way=one_way)
        self.tell("fault.partition", side=apart, others=rest, one_way=one_way)

    def heal(self) -> None:
        """End all partitions."""
        if self.conditions.has_partition:
            self.conditions.heal()
            self.tell("fault.heal")

    def clog(self, *hosts: str) -> None:
        """Hold what is sent from and to these hosts from now on."""
        for host in hosts:
            self.conditions.clog(host)
        self.tell("fault.clog", hosts=list(hosts))

    def unclog(self, *hosts: str) -> None:
        """Let what was held go on its way now, in the order of sending, unless its other end is clogged too."""
        for host in hosts:
            self.conditions.unclog(host)
        self.tell("fault.unclog", hosts=list(hosts))
        self.paths.release()

    def listen(self, listener: FaultListener) -> None:
        """Tell ``listener`` of every later fault, such as ``"fault.crash"``; it is called at once."""
        self._listeners.append(listener)

    def unlisten(self, listener: FaultListener) -> None:
        """Undo one `listen`."""
        self._listeners.remove(listener)

    def tell(self, fault: str, /, **facts: Fact) -> None:
        """Tell the listeners of a fault."""
        for listener in tuple(self._listeners):
            listener(fault, facts)
