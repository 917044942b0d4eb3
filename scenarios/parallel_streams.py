"""A v0.8 peer asks on sixty streams of one connection at once, and every stream gets its own answer.

Such a peer opens a stream for every message.  Answers of several kilobytes each share datagrams, so their order on the
wire shows every difference in how streams are scheduled.  Checked: each stream carries exactly the answer to its own
question, and only that.
"""

import hashlib

import trio

from macula_trio import Call, Identity, Trust
from macula_trio._net.quic import CloseReason, Connection, QuicEndpoint
from macula_trio._util import Address
from macula_trio.testing import LinkModel, World
from macula_trio.wire import FrameDecoder, MessageType, encode_frame

STREAMS = 60
PADDING = "x" * 3000


async def echo(call: Call) -> object:
    return call.args


class Peer:
    """The handler of the peer's one connection: notes what comes back on which stream."""

    def __init__(self, world: World, wanted: int) -> None:
        self._world = world
        self._wanted = wanted
        self._decoders: dict[int, FrameDecoder] = {}
        self.connected, self.done = trio.Event(), trio.Event()
        self.answers: dict[int, bytes] = {}

    def handshake_completed(self) -> None:
        self.connected.set()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        decoder = self._decoders.setdefault(stream_id, FrameDecoder())
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            once = stream_id not in self.answers
            self._world.check("a question gets one answer, on its stream", once, f"stream {stream_id}")
            assert frame.body is not None
            self.answers[stream_id] = frame.body["call_id"]
            self._world.note("streams.answered", stream=stream_id)
        if len(self.answers) == self._wanted:
            self.done.set()

    def stream_reset(self, stream_id: int) -> None:
        self._world.note("streams.reset", stream=stream_id)

    def moved(self, old: Address, new: Address) -> None:
        self._world.note("streams.moved", before=list(old), now=list(new))

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self._world.note("streams.lost", reason=reason.value, detail=detail)


async def scenario(world: World) -> None:
    world.set_links(LinkModel(latency_s=0.01, jitter_s=0.005, loss=0.02))
    server = await world.start("server", trust=Trust.unverified())
    wanted = world.nodes(STREAMS)
    async with server.advertise("streams.echo", echo):
        socket = await world.network.host("v08-peer").bind(("0.0.0.0", 9443))
        endpoint = QuicEndpoint(
            socket,
            Identity.from_seed(hashlib.sha256(b"v0.8 peer").digest()),
            accept=lambda _: Peer(world, 0),
            idle_timeout_s=30,
            random_bytes=world.random.randbytes,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(endpoint.serve)
                await ask(world, endpoint, wanted)
                nursery.cancel_scope.cancel()
        finally:
            socket.close()


async def ask(world: World, endpoint: QuicEndpoint, wanted: int) -> None:
    peer = Peer(world, wanted)
    connection: Connection = endpoint.dial((world.network.host("server").address, 9443), lambda _: peer)
    with trio.fail_after(60):
        await peer.connected.wait()
        for number in range(wanted):
            args = f'{{"number": {number}, "padding": "{PADDING}"}}'
            body = {"call_id": number.to_bytes(16), "procedure": "streams.echo", "args": args, "timeout": 30_000}
            connection.write(connection.open_stream(), encode_frame(MessageType.CALL, body))
        await peer.done.wait()
    expected = {4 * number: number.to_bytes(16) for number in range(wanted)}
    world.check("every stream carries the answer to its question", peer.answers == expected, f"{peer.answers}")
