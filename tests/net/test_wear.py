"""A connection says when it has carried so much that another one should take its place."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from quic_tools import Proving, Recorder, connect_bare, host, open_endpoint

from macula_trio._net.connection import Connection
from macula_trio._net.wear import DATAGRAMS_WORN, STREAMS_WORN, Wear, WearLimits
from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock


def test_a_new_connection_is_not_worn() -> None:
    wear = Wear(WearLimits())
    assert not wear.is_worn
    assert wear.streams_opened == 0


@pytest.mark.parametrize(("count", "is_worn"), [(DATAGRAMS_WORN - 1, False), (DATAGRAMS_WORN, True)])
def test_datagrams_wear_it(count: int, is_worn: bool) -> None:
    wear = Wear(WearLimits())
    wear.datagrams_sent = count
    assert wear.is_worn is is_worn


def test_the_usual_limit_is_below_what_is_safe_under_one_key() -> None:
    assert DATAGRAMS_WORN <= 2**23 / 2, "RFC 9001, section 6.6"


def test_streams_of_both_sides_wear_it() -> None:
    wear = Wear(WearLimits())
    ours, theirs = range(0, 2 * STREAMS_WORN, 4), range(1, 2 * STREAMS_WORN, 4)
    for stream_id in (*ours, *theirs[:-1]):
        wear.used(stream_id)
    assert not wear.is_worn
    wear.used(theirs[-1])
    assert wear.is_worn


def test_a_stream_counts_once_and_with_all_before_it() -> None:
    wear = Wear(WearLimits())
    for stream_id in (0, 0, 8, 4, 8, 3, 2):
        wear.used(stream_id)
    assert wear.streams_opened == 3 + 1 + 1


# -- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_dialer", [True, False])
async def test_streams_are_counted_on_both_ends_whoever_opens_them(by_dialer: bool, autojump_clock: Clock) -> None:
    accepted: list[Recorder] = []

    def accept(connection: Connection) -> Recorder:
        accepted.append(Proving(connection))
        return accepted[-1]

    network, wear = SimNetwork(), WearLimits(streams=4)
    async with (
        open_endpoint(network, 1, accept=accept, wear=wear),
        open_endpoint(network, 2, wear=wear) as dialer,
    ):
        near = await connect_bare(dialer, host(1))
        near.write(b"control")
        await trio.sleep(0.1)
        ends = near.connection, accepted[0].connection
        opener = ends[0] if by_dialer else ends[1]
        for _ in range(2):
            opener.write(opener.open_stream(), b"question", end_stream=True)
        await trio.sleep(0.1)
        assert [end.is_worn for end in ends] == [False, False]
        stream_id = opener.open_stream()
        assert not opener.is_worn, "it opens with what is written"
        opener.write(stream_id, b"one more", end_stream=True)
        await trio.sleep(0.1)
        assert [end.is_worn for end in ends] == [True, True]
        near.write(b"goes on")
        await trio.sleep(0.1)
        assert bytes(accepted[0].data[0]) == b"controlgoes on"


async def test_datagrams_are_counted_where_they_are_sent(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_endpoint(network, 1, accept=Proving),
        open_endpoint(network, 2, wear=WearLimits(datagrams=50)) as dialer,
    ):
        near, other = await connect_bare(dialer, host(1)), await connect_bare(dialer, host(1))
        worn: list[list[bool]] = []
        near.connection.proven()
        near.write(bytes(40_000))
        await trio.sleep(1)
        worn.append([near.connection.is_worn, other.connection.is_worn])
        near.write(bytes(40_000))
        await trio.sleep(1)
        worn.append([near.connection.is_worn, other.connection.is_worn])
        assert worn == [[False, False], [True, False]], "each connection has a key of its own"
