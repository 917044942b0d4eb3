"""What we do to aioquic's private parts works: each test fails when a release of it names them otherwise."""

from __future__ import annotations

import trio
from quic_tools import Proving, Recorder, connect_bare, host, open_endpoint

from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock


class Answering(Recorder):
    """Says the same."""

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        super().stream_data_received(stream_id, data, end_stream)
        self.connection.write(stream_id, data)


async def test_a_question_and_its_answer_take_three_datagrams(autojump_clock: Clock) -> None:
    def datagrams() -> tuple[int, int]:
        return one.counters.datagrams_sent, two.counters.datagrams_sent

    network = SimNetwork()
    async with open_endpoint(network, 1, accept=Answering) as one, open_endpoint(network, 2) as two:
        recorder = await connect_bare(two, host(1))
        await trio.sleep(1)
        for question in (b"are you there", b"still"):
            before = datagrams()
            recorder.write(question)
            await trio.sleep(1)
            sent = [after - earlier for after, earlier in zip(datagrams(), before, strict=True)]
            assert sent == [1, 2], "the answer has not acknowledged the question"
        assert recorder.data == {0: b"are you therestill"}


async def test_a_proven_connection_keeps_no_buffers_of_its_handshake(autojump_clock: Clock) -> None:
    """Three of 16 KiB at each end; aioquic never frees them."""
    network = SimNetwork()
    async with open_endpoint(network, 1, accept=Proving) as one, open_endpoint(network, 2) as two:
        recorder = await connect_bare(two, host(1))
        kept = {epoch: buffer.capacity for epoch, buffer in recorder.connection._quic._crypto_buffers.items()}
        assert sum(kept.values()) == 3 * 16 * 1024, "aioquic has changed"
        recorder.connection.proven()
        await trio.sleep(0.1)
        connections = [recorder.connection, *one._connections]
        assert all(b.capacity == 0 for c in connections for b in c._quic._crypto_buffers.values())
        recorder.connection._quic.request_key_update()  # TLS has nothing to do with it
        recorder.write(b"behind it")
        await trio.sleep(0.1)
        [listening] = one._connections
        assert isinstance(listening._handler, Recorder)
        assert listening._handler.data == {0: b"behind it"}
