"""How faults are made on a simulated network, of datagrams or of frames, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from macula_trio._events import Fact
from macula_trio.testing._faults import Conditions, LinkModel, host_names, model_facts

FaultListener: TypeAlias = Callable[[str, Mapping[str, Fact]], None]


class FaultyNetwork:
    """What both simulated networks are: hosts by name, and faults between them.

    Args:
      conditions: decide what becomes of each packet.
      release: sends what was held on its way.

    Attributes:
      conditions: what the network is like now; changed there, nobody is told.
    """

    def __init__(self, conditions: Conditions, release: Callable[[], None]) -> None:
        self.conditions = conditions
        self._release = release
        self._listeners: list[FaultListener] = []

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
        self._release()

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
