"""Keeps the endpoint that a node announces true while addresses change (DESIGN section 8; docs/design/endpoints.md).

What to announce is decided in ``observed.py``; here it is asked for and carried out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from macula_trio._events import EventBus
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.link import QuicLink
from macula_trio._peer.observed import EndpointChoice
from macula_trio._util import Address

logger = logging.getLogger("macula_trio")

ROUTE_CHECK_S: Final = 10.0  # two calls of the system; a mesh of two has nobody else who could tell


class Announcer:
    """Changes the endpoint that a node tells others.

    Args:
      party: says it in every CONNECT and PONG, and has one to begin with.
      port: that we listen on.
      events: where changes are told.
      source_host: gives our numeric address on the route to the mesh; raises `OSError` when there is none.
      problem_with: why those who have our trust policy would not let us in by an endpoint; None when they would.
      moved: told of each new endpoint, when it is in force.
    """

    def __init__(
        self,
        party: LocalParty,
        *,
        port: int,
        events: EventBus,
        source_host: Callable[[], str],
        problem_with: Callable[[str], str | None],
        moved: Callable[[str], None],
    ) -> None:
        assert party.endpoint is not None
        self._party = party
        self._events = events
        self._source_host = source_host
        self._choice = EndpointChoice(party.endpoint, port=port, route_host=self._route_host())
        self._problem_with = problem_with
        self._moved = moved

    def observed(self, link: QuicLink, address: Address) -> None:
        """Take what a proven peer that we dialed says of where it sees us."""
        assert link.node_id is not None
        now = trio.current_time()
        self._choice.observed(link.node_id, link.peer_host, address, now)
        self._follow_peers(now)

    async def watch_route(self) -> None:
        """Look at our own address again and again, until cancelled."""
        while True:
            await trio.sleep(ROUTE_CHECK_S)
            host = self._route_host()
            endpoint = None if host is None else self._choice.route_is(host)
            if endpoint is not None:
                self._choice.announced(endpoint)
                self._change(endpoint)
            else:
                self._follow_peers(trio.current_time())  # a pause may be over

    def _route_host(self) -> str | None:
        try:
            return self._source_host()
        except OSError:
            return None  # between two networks: the next one has an address

    def _follow_peers(self, now: float) -> None:
        endpoint = self._choice.proposal(now)
        if endpoint is None:
            return
        # Under a policy that has names for endpoints our certificate may be good for the old one only.
        problem = self._problem_with(endpoint)
        if problem is not None and self._problem_with(self._choice.endpoint) is None:
            logger.info("peers see us at %s, but there others would not let us in: %s", endpoint, problem)
            return
        self._choice.announced(endpoint, now)
        self._change(endpoint)

    def _change(self, endpoint: str) -> None:
        before, self._party.endpoint = self._party.endpoint, endpoint
        self._events.emit("endpoint.changed", before=before, endpoint=endpoint)
        self._moved(endpoint)
