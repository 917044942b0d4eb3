"""Credits of a link: what waits, and what a lying peer gains."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from macula_trio._peer.window import BACKLOG_BYTES_MAX, CREDIT_EVERY_BYTES, WINDOW_BYTES, ReceiveWindow, SendWindow

sizes = st.lists(st.integers(1, 300_000), max_size=60)


@given(sizes)
def test_a_reader_that_takes_everything_never_stops_its_writer(frames: list[int]) -> None:
    writer, reader = SendWindow(), ReceiveWindow()
    for size in frames:
        writer.wrote(size)
        total = reader.took(size)
        if total is not None:
            assert writer.credited(total)
        assert writer.size < CREDIT_EVERY_BYTES + size
        assert not writer.is_congested


@given(sizes, st.data())
def test_lost_late_and_repeated_credits_do_no_harm(frames: list[int], data: st.DataObject) -> None:
    writer, reader = SendWindow(), ReceiveWindow()
    told = []
    for size in frames:
        writer.wrote(size)
        total = reader.took(size)
        if total is not None:
            told.append(total)
    assert told == sorted(set(told))
    for total in data.draw(st.permutations(told * 2)):
        before = writer.size
        gained = writer.credited(total)
        assert gained == (writer.size < before)
        assert writer.size >= 0
    assert writer.size == sum(frames) - max(told, default=0)


@given(st.integers(-(2**70), 2**70))
def test_what_was_not_written_cannot_be_credited(total: int) -> None:
    writer = SendWindow()
    writer.wrote(1000)
    assert writer.credited(total) == (0 < total <= 1000)
    assert 0 <= writer.size <= 1000


def test_a_writer_waits_above_the_window_and_gives_up_above_the_bound() -> None:
    writer = SendWindow()
    writer.wrote(WINDOW_BYTES)
    assert not writer.is_congested
    writer.wrote(1)
    assert writer.is_congested
    writer.wrote(BACKLOG_BYTES_MAX - WINDOW_BYTES - 1)
    assert not writer.is_hopeless
    writer.wrote(1)
    assert writer.is_hopeless
    assert writer.credited(BACKLOG_BYTES_MAX + 1 - WINDOW_BYTES)
    assert not writer.is_congested
