"""What happens to a packet on a network that is not perfect: decided here, acted on by the simulated networks.

Pure: hosts are names, time is a number that is handed in.  Chance is stateless: the n-th packet from one host to
another draws from a hash of (seed, source, target, n), so a changed fault, or traffic between others, changes nothing
but what it touches.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from math import inf
from typing import Any, Final, Literal, TypeAlias

import attrs

MTU_BYTES_MAX: Final = 65_507  # the largest payload of a UDP datagram over IPv4
QUEUE_BYTES_MAX: Final = 262_144  # by default; what the buffer of a home router holds
PAIR_STATES_MAX: Final = 1 << 20  # of pairs of hosts that have talked: a thousand hosts, each with all others

Loss: TypeAlias = Literal["cut", "mtu", "queue", "chance"]
"""Why a packet is lost on its way: a partition, its size, a full queue before a narrow path, or bad luck."""

_DRAW: Final = struct.Struct(">5Q")  # loss, jitter, reordering, duplication, jitter of the copy
_FRACTION: Final = 2.0**-53  # a float has 53 bits of mantissa, so every draw is below 1


def _check_duration(_model: LinkModel, field: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < inf:
        raise ValueError(f"{field.name}: {value!r} is not a number of seconds from 0 on")


def _check_probability(_model: LinkModel, field: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{field.name}: {value!r} is not a probability from 0 to 1")


def _check_bandwidth(_model: LinkModel, field: attrs.Attribute[float], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field.name}: {value!r} is not above 0; lose everything by partition() or loss=1")


def _check_queue(_model: LinkModel, field: attrs.Attribute[int], value: int) -> None:
    if not 0 <= value < inf:
        raise ValueError(f"{field.name}: {value!r} is not a number of bytes from 0 on: every queue has a bound")


def _check_mtu(_model: LinkModel, field: attrs.Attribute[int], value: int) -> None:
    if not 1 <= value <= MTU_BYTES_MAX:
        raise ValueError(f"{field.name}: {value!r} is not a number of bytes from 1 to {MTU_BYTES_MAX}")


@attrs.frozen(kw_only=True)
class LinkModel:
    """One direction of the path between two hosts.

    Attributes:
      latency_s: what every packet takes.
      jitter_s: at most so much more, evenly distributed, for each packet by itself: above 0 it reorders.
      loss: probability that a packet is lost.
      duplication: probability that it arrives twice; the copy has a jitter of its own.
      reordering: probability that it is held back, so that later ones overtake it.
      reordering_delay_s: for so long.
      bandwidth_bytes_per_s: packets leave one after another at this rate; headers below their payload count nothing.
      queue_bytes_max: of packets that have to wait for the bandwidth; one that exceeds it is lost (tail drop).
      mtu_bytes: the largest payload that gets through; a larger one is lost.

    Raises:
      ValueError: one line with the field, the value and the mend.
    """

    latency_s: float = attrs.field(default=0.001, validator=_check_duration)
    jitter_s: float = attrs.field(default=0.0, validator=_check_duration)
    loss: float = attrs.field(default=0.0, validator=_check_probability)
    duplication: float = attrs.field(default=0.0, validator=_check_probability)
    reordering: float = attrs.field(default=0.0, validator=_check_probability)
    reordering_delay_s: float = attrs.field(default=0.01, validator=_check_duration)
    bandwidth_bytes_per_s: float = attrs.field(default=inf, validator=_check_bandwidth)
    queue_bytes_max: int = attrs.field(default=QUEUE_BYTES_MAX, validator=_check_queue)
    mtu_bytes: int = attrs.field(default=MTU_BYTES_MAX, validator=_check_mtu)

    @property
    def has_chance(self) -> bool:
        """Whether anything about a packet depends on luck."""
        return bool(self.jitter_s or self.loss or self.duplication or self.reordering)


@attrs.frozen
class Fate:
    """What becomes of one packet.

    Attributes:
      arrivals: when it arrives, twice if it is duplicated, in no order; empty when it is lost.
      loss: why it is lost, or None.
    """

    arrivals: tuple[float, ...]
    loss: Loss | None = None


_CUT: Final = Fate((), "cut")
_TOO_LARGE: Final = Fate((), "mtu")
_QUEUE_FULL: Final = Fate((), "queue")
_BAD_LUCK: Final = Fate((), "chance")


@attrs.frozen
class _Partition:
    side: frozenset[str]
    others: frozenset[str] | None
    one_way: bool

    def cuts(self, source: str, target: str) -> bool:
        return self._leads_out(source, target) or (not self.one_way and self._leads_out(target, source))

    def _leads_out(self, source: str, target: str) -> bool:
        if self.others is None:
            return source in self.side and target not in self.side
        return source in self.side and target in self.others and source != target


@attrs.define(eq=False)
class _Pair:
    """One direction between two hosts: what holds for it now, looked up once per change, and how far it has come."""

    model: LinkModel
    has_chance: bool
    is_cut: bool
    version: int
    packets: int = 0
    idle_at: float = 0.0  # when all that waits for the bandwidth has left


class Conditions:
    """What a network is like now: the paths between its hosts, partitions, clogged hosts.

    A change holds for what is sent from then on; what is under way arrives.

    Args:
      seed: of all chance.
      model: of every path without one of its own.
    """

    def __init__(self, seed: int, model: LinkModel) -> None:
        self._seed = seed
        self._models: dict[tuple[str | None, str | None], LinkModel] = {(None, None): model}
        self._partitions: list[_Partition] = []
        self._clogged: dict[str, None] = {}
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._version = 0

    # -- what it is like ------------------------------------------------------------------------------------------

    def set_model(self, model: LinkModel, source: str | None = None, target: str | None = None) -> None:
        """Change the paths from ``source`` to ``target``; None stands for any.

        The most specific one holds: of both hosts, of the source, of the target, of all.
        """
        self._models[source, target] = model
        self._version += 1

    def model(self, source: str, target: str) -> LinkModel:
        """The path between two hosts, in this direction."""
        keys: tuple[tuple[str | None, str | None], ...] = ((source, target), (source, None), (None, target))
        return next((self._models[key] for key in keys if key in self._models), self._models[None, None])

    def partition(self, side: Iterable[str], others: Iterable[str] | None = None, *, one_way: bool = False) -> None:
        """Lose whatever is sent between ``side`` and ``others``, in addition to what is cut already.

        Args:
          side: names of hosts.
          others: names of hosts; None stands for everybody else, also those who come later.
          one_way: lose only what ``side`` sends.

        Raises:
          ValueError: a lone text instead of names.
        """
        apart = None if others is None else frozenset(host_names(others))
        self._partitions.append(_Partition(frozenset(host_names(side)), apart, one_way))
        self._version += 1

    @property
    def has_partition(self) -> bool:
        """Whether anything is cut."""
        return bool(self._partitions)

    def heal(self) -> None:
        """End all partitions."""
        self._partitions.clear()
        self._version += 1

    def clog(self, host: str) -> None:
        """From now on, packets from and to this host are to be held by whoever carries them."""
        self._clogged[host] = None

    def unclog(self, host: str) -> None:
        """Undo `clog`; what is still held for another clogged host stays held."""
        self._clogged.pop(host, None)

    @property
    def has_clog(self) -> bool:
        """Whether any host is clogged."""
        return bool(self._clogged)

    def is_clogged(self, source: str, target: str) -> bool:
        """Whether one of two different hosts is clogged."""
        return source != target and (source in self._clogged or target in self._clogged)

    def is_cut(self, source: str, target: str) -> bool:
        """Whether what ``source`` sends to ``target`` is lost to a partition."""
        return any(partition.cuts(source, target) for partition in self._partitions)

    # -- what becomes of a packet ---------------------------------------------------------------------------------

    def fate(self, source: str, target: str, size: int, now: float) -> Fate:
        """Decide about the next packet from one host to another, and count it.

        Args:
          source: name of a host.
          target: name of a host.
          size: bytes of its payload.
          now: in seconds; never less than the last time.
        """
        pair = self._pairs.get((source, target))
        if pair is None or pair.version != self._version:
            pair = self._look_up(source, target)
        number = pair.packets
        pair.packets = number + 1  # whatever comes of it: a fault must not shift the luck of later packets
        if pair.is_cut:
            return _CUT
        model = pair.model
        if size > model.mtu_bytes:
            return _TOO_LARGE
        if model.bandwidth_bytes_per_s < inf:
            waits_s = max(0.0, pair.idle_at - now)
            if waits_s and waits_s * model.bandwidth_bytes_per_s + size > model.queue_bytes_max:
                return _QUEUE_FULL
            pair.idle_at = now = now + waits_s + size / model.bandwidth_bytes_per_s
        if not pair.has_chance:
            return Fate((now + model.latency_s,))
        return _roll(model, now + model.latency_s, self._draw(source, target, number))

    def _look_up(self, source: str, target: str) -> _Pair:
        model, is_cut = self.model(source, target), self.is_cut(source, target)
        pair = self._pairs.get((source, target))
        if pair is None:
            if len(self._pairs) >= PAIR_STATES_MAX:
                raise ValueError(f"more than {PAIR_STATES_MAX} pairs of hosts have talked: simulate fewer hosts")
            pair = self._pairs[source, target] = _Pair(model, model.has_chance, is_cut, self._version)
        pair.model, pair.has_chance, pair.is_cut, pair.version = model, model.has_chance, is_cut, self._version
        return pair

    def _draw(self, source: str, target: str, number: int) -> tuple[float, ...]:
        # With the length of the first name, so that no two pairs of names give the same text.
        text = f"{self._seed} {number} {len(source)} {source}{target}"
        digest = hashlib.blake2b(text.encode(), digest_size=_DRAW.size).digest()
        return tuple((drawn >> 11) * _FRACTION for drawn in _DRAW.unpack(digest))


def _roll(model: LinkModel, due: float, draws: tuple[float, ...]) -> Fate:
    lost, jitter, held_back, duplicated, jitter_of_copy = draws
    if lost < model.loss:
        return _BAD_LUCK
    first = due + model.jitter_s * jitter
    if held_back < model.reordering:
        first += model.reordering_delay_s
    if duplicated < model.duplication:
        return Fate((first, due + model.jitter_s * jitter_of_copy))
    return Fate((first,))


def host_names(names: Iterable[str]) -> list[str]:
    """Names of hosts as a list.

    Raises:
      ValueError: a lone text, which would be taken for as many names as it has letters.
    """
    if isinstance(names, str):
        raise ValueError(f"hosts: {names!r} is one text; give the names in a list")
    return list(names)


def model_facts(model: LinkModel) -> dict[str, Any]:
    """A model as facts for a trace: JSON knows no infinity."""
    return {name: None if value == inf else value for name, value in attrs.asdict(model).items()}
