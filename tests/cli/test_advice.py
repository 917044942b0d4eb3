"""Lines for those who run a node: what they say, and that nothing is said twice."""

from __future__ import annotations

from typing import Any

import pytest

from macula_trio import Event
from macula_trio._cli.advice import LINES_REMEMBERED, Adviser


def event(name: str, **facts: Any) -> Event:
    return Event(time_s=0.0, name=name, facts=facts)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            event("node.bootstrap_failed", endpoint="192.0.2.1:1", reason="nobody answered at 192.0.2.1:1"),
            "not joined: nobody answered at 192.0.2.1:1",
        ),
        (
            event("node.bootstrap_failed", endpoint="seed.example.org:1", reason="peer at 192.0.2.1:1: no"),
            "not joined by seed.example.org:1: peer at 192.0.2.1:1: no",
        ),
        (
            event("clock.differs", ahead_s=-3600, address="192.0.2.1:1", peer="ab"),
            "our clock is 3600 s ahead of that of the node at 192.0.2.1:1; set the wrong one, by NTP for example",
        ),
        (
            event("dht.clock_skew", seconds=90, witnesses=3, asked=4),
            "3 of 4 nodes say that our clock is 90 s behind; set it, by NTP for example",
        ),
        (
            event("identity.renewal_due", days_left=-1.0, valid_until="2025-01-01"),
            "our certificate was valid until 2025-01-01; renew it: macula-trio realm issue DIRECTORY FILE",
        ),
        (
            event("endpoint.changed", before="10.0.0.1:1", endpoint="192.0.2.7:1"),
            "we announce 192.0.2.7:1 from now on, where we are seen, and no longer 10.0.0.1:1",
        ),
        (event("link.opened", peer="ab"), None),
    ],
)
def test_an_event_that_asks_for_it_becomes_a_line(told: Event, line: str | None) -> None:
    assert Adviser(joins=True).advise(told) == line


def test_failures_to_join_are_left_to_a_command_that_ends_by_them() -> None:
    failed = event("node.bootstrap_failed", endpoint="a:1", reason="no")
    assert Adviser(joins=False).advise(failed) is None


def test_nothing_is_said_twice_until_much_else_was_said() -> None:
    adviser = Adviser(joins=True)
    lines = [event("node.bootstrap_failed", endpoint=f"h:{n + 1}", reason="no") for n in range(LINES_REMEMBERED)]
    assert all(adviser.advise(line) for line in lines)
    assert not any(adviser.advise(line) for line in lines)
    assert adviser.advise(event("node.bootstrap_failed", endpoint="other:1", reason="no"))
    assert adviser.advise(lines[0]), "forgotten, as the first one"
    assert not adviser.advise(lines[-1])
