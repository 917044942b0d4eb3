"""Where a node that listens on a wildcard tells others to dial it: by its route, and by where its peers see it.

Sans-IO (DESIGN section 8).  What a peer says of us is hearsay, so peers are counted, and none of them decides alone;
the rules, their reasons and what liars can do: docs/design/endpoints.md.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

from macula_trio._ids import NodeId
from macula_trio._util import (
    Address,
    format_endpoint,
    host_group,
    is_local,
    is_loopback,
    is_private,
    is_unspecified,
    may_tell,
    numeric_endpoint,
    public_network,
    unmapped,
)

OBSERVERS_MIN: Final = 3  # that agree; one liar and one whom he has fooled are two
OBSERVERS_MAX: Final = 15  # the latest count: who was dialed long ago must not outvote who was dialed today
OBSERVATION_LIFE_S: Final = 900.0  # longer than the rarest refresh of a table, in which peers are dialed anew
OUTNUMBERING: Final = 2  # so many times as many as see us where we are: two equal camps must not pull us to and fro
CHANGE_PAUSE_S: Final = 60.0  # each change costs a few dozen handshakes and stores, whoever had it made


def read_observed(text: str | None) -> Address | None:
    """Read where a peer says that it sees us; None for what is not the address of one node."""
    if text is None:
        return None
    try:
        return unmapped(numeric_endpoint(text))
    except ValueError:
        return None


@attrs.frozen
class _Observation:
    """What was said last by somebody in a network."""

    observer: NodeId
    address: Address
    at: float
    is_public: bool  # the observer, not what it says


class EndpointChoice:
    """Chooses the endpoint that we announce.

    All times are seconds on one clock that never goes back.

    Args:
      endpoint: the first one.
      port: that we listen on.
      route_host: our address on the route to the mesh; None while there is no route.
    """

    def __init__(self, endpoint: str, *, port: int, route_host: str | None) -> None:
        self._address = numeric_endpoint(endpoint)
        self._port = port
        self._route_host = route_host
        self._observations: dict[str, _Observation] = {}  # by the network of the observer, the oldest first
        self._chosen_at: float | None = None

    @property
    def endpoint(self) -> str:
        """What is to be announced."""
        return format_endpoint(self._address)

    @property
    def observations(self) -> int:
        """How many are remembered."""
        return len(self._observations)

    def route_is(self, host: str) -> str | None:
        """Take our address on the route to the mesh; gives the endpoint to announce when we have moved.

        What peers have seen before is forgotten then: they saw us elsewhere.  A machine that is cut off from every
        network, so that only loopback is left, has not moved.
        """
        if host == self._route_host or is_unspecified(host) or is_loopback(host):
            return None
        self._route_host = host
        self._observations.clear()
        endpoint = format_endpoint((host.partition("%")[0], self._port))  # a scope means something here only
        return None if endpoint == self.endpoint else endpoint

    def observed(self, observer: NodeId, host: str, address: Address, now: float) -> None:
        """Note where a peer sees us.

        Args:
          observer: its proven id.
          host: where it was dialed.
          address: what it said, as `read_observed` gives it.
          now: see above.
        """
        if is_loopback(host) or is_local(address[0]) or not may_tell(host, address):
            return
        network = public_network(host) or host_group(host)
        for other, earlier in tuple(self._observations.items()):
            if earlier.observer == observer or other == network:
                del self._observations[other]
        if len(self._observations) >= OBSERVERS_MAX:
            del self._observations[next(iter(self._observations))]
        self._observations[network] = _Observation(observer, address, now, is_public=not is_private(host))

    def proposal(self, now: float) -> str | None:
        """The endpoint that peers see us at and that should be announced instead; None when ours should stay."""
        self._forget_old(now)
        if self._chosen_at is not None and now - self._chosen_at < CHANGE_PAUSE_S:
            return None
        counts = Counter(observation.address for observation in self._observations.values())
        if not counts:
            return None
        # Below it must have more than half of all, so which of two equal ones is looked at does not matter.
        (address, count), *_ = counts.most_common(1)
        if address == self._address or count < OBSERVERS_MIN or 2 * count <= len(self._observations):
            return None
        if count < OUTNUMBERING * counts[self._address]:
            return None
        # What is private reaches those near us only, and somebody far away is among those who talk to us.
        is_step_back = is_private(address[0]) and not is_private(self._address[0])
        if is_step_back and any(observation.is_public for observation in self._observations.values()):
            return None
        return format_endpoint(address)

    def announced(self, endpoint: str, now: float | None = None) -> None:
        """Note that an endpoint is announced; ``now`` when peers were the reason."""
        self._address = numeric_endpoint(endpoint)
        self._chosen_at = now

    def _forget_old(self, now: float) -> None:
        since = now - OBSERVATION_LIFE_S
        for network, observation in tuple(self._observations.items()):
            if observation.at <= since:
                del self._observations[network]
