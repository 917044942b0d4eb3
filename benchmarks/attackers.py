"""The attacks of attacks.py: each goes on until it is cancelled, and counts what it sends."""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import pull_quic_header
from attack_nodes import REALM
from attack_tools import HOSTS, TICK_S, Attacker, Field, again_and_again, open_attacker, open_endpoint, wait_ended

import macula_trio as macula
from macula_trio._identity.record import sign_record
from macula_trio._net.quic import CONTROL_STREAM, QuicEndpoint
from macula_trio._net.tls import ALPN
from macula_trio._net.udp import UdpNetwork
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_message
from macula_trio._wire.frame import HEADER, HEADER_BYTES, MAX_PAYLOAD, VERSION, MessageType
from macula_trio.abc import Message

INITIALS: Final = 10_000
INITIAL_BYTES: Final = 1200
HELLOS: Final = 16  # different ones, by real clients; each goes out under many connection ids
HALF_OPEN: Final = 1_000
DRIP_S: Final = 0.5  # between two bytes of a CONNECT that never ends
BURST: Final = 64  # datagrams between two looks at the clock
GARBAGE_BYTES: Final = 4096
CHUNK_FRAMES: Final = 200
WITHHELD_BYTES: Final = 128 * 1024  # on one stream
WITHHELD_STREAMS: Final = 40  # 5 MiB together
GAP_FIRST: Final = 512 * 1024 + 1  # above half of what a stream may send, so that it may send twice as much next
GAP_LAST: Final = 32 * 1024 * 1024  # where the machine is spared
GAP_PAUSE_S: Final = 0.02
VALUES: Final = 64  # under one key: a whole reply
VALUE_METADATA_BYTES: Final = 3500
QUESTIONS: Final = 200  # asked by one who reads no answer


# -- datagrams of nobody ---------------------------------------------------------------------------------------------


def real_hello() -> tuple[bytes, bytes, bytes]:
    """Of a real client's first Initial: its source connection id, its version and its payload."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE)
    client = QuicConnection(configuration=configuration)
    client.connect(("127.0.0.1", 9), now=0.0)
    ((datagram, _),) = client.datagrams_to_send(now=0.0)
    buffer = Buffer(data=datagram)
    header = pull_quic_header(buffer, host_cid_length=8)
    assert header.version is not None
    reading = CryptoPair()
    reading.setup_initial(header.destination_cid, is_client=False, version=header.version)
    _, payload, _ = reading.decrypt_packet(datagram[: header.packet_length], buffer.tell(), 0)
    return header.source_cid, header.version.to_bytes(4, "big"), payload


def initial_under(cid: bytes, hello: tuple[bytes, bytes, bytes]) -> bytes:
    """The same Initial as it would be to another connection id, which is what its encryption hangs on."""
    source_cid, version, payload = hello
    length = (0x4000 | (2 + len(payload) + 16)).to_bytes(2, "big")  # packet number, payload, seal
    head = b"\xc1" + version + bytes([len(cid)]) + cid + bytes([len(source_cid)]) + source_cid + b"\0" + length
    writing = CryptoPair()
    writing.setup_initial(cid, is_client=True, version=int.from_bytes(version, "big"))
    return writing.encrypt_packet(head + b"\0\0", payload, 0).ljust(INITIAL_BYTES, b"\0")


def garbage_initial(cid: bytes) -> bytes:
    """A header as it should be, and behind it what nobody can decrypt."""
    head = b"\xc1\0\0\0\1" + bytes([len(cid)]) + cid + b"\x08" + os.urandom(8) + b"\0"
    rest = INITIAL_BYTES - len(head) - 2
    return head + (0x4000 | rest).to_bytes(2, "big") + os.urandom(rest)


async def spread(field: Field, make: Callable[[], bytes]) -> None:
    """Send ``INITIALS`` datagrams evenly over the time there is, each from a port of its own, and go on like that."""
    network, begun = UdpNetwork(), trio.current_time()
    while True:
        due = (trio.current_time() - begun) * INITIALS / field.seconds
        while field.counts["datagrams"] < due:
            sent = field.counts["datagrams"]
            socket = await network.bind((HOSTS[sent % len(HOSTS)], 0))
            socket.send_batch([(make(), field.target)])
            field.counts["datagrams"] += 1 - socket.datagrams_lost
            socket.close()
        await trio.sleep(TICK_S)


async def initials(field: Field) -> None:
    hellos = [real_hello() for _ in range(HELLOS)]
    assert len(initial_under(bytes(8), hellos[0])) >= INITIAL_BYTES
    await spread(field, lambda: initial_under(os.urandom(8), hellos[field.counts["datagrams"] % HELLOS]))


async def initials_of_garbage(field: Field) -> None:
    await spread(field, lambda: garbage_initial(os.urandom(8)))


async def garbage_datagrams(field: Field) -> None:
    """Random bytes of all sizes at full speed, half of them with what looks like a long header."""
    socket = await UdpNetwork().bind((HOSTS[0], 0))
    noise = os.urandom(2 * INITIAL_BYTES)
    burst = [(noise[7 * number : 7 * number + 1 + 18 * number], field.target) for number in range(BURST)]
    try:
        while True:
            lost = socket.datagrams_lost
            socket.send_batch(burst)
            field.counts["datagrams"] += BURST - (socket.datagrams_lost - lost)
            await trio.lowlevel.checkpoint()
    finally:
        socket.close()


# -- peers that are not proven yet --------------------------------------------------------------------------------


async def half_open(field: Field) -> None:
    """As many clients as there may be, half of them deaf, half of them with a CONNECT that takes its time."""

    async def one_client(endpoint: QuicEndpoint) -> None:
        while True:
            async with open_attacker(field, endpoint, None) as attacker:
                if attacker is not None:
                    await drip(attacker)

    async def drip(attacker: Attacker) -> None:
        field.counts["through TLS"] += 1
        attacker.connection.write(CONTROL_STREAM, HEADER.pack(VERSION, MessageType.CONNECT, 16 * 1024))
        while not attacker.ended:
            with trio.move_on_after(DRIP_S):
                await wait_ended(attacker)
            attacker.connection.write(CONTROL_STREAM, b"x")

    async def one_host(host: str, *, deaf: bool) -> None:
        async with open_endpoint(host, deaf=deaf) as endpoint, trio.open_nursery() as nursery:
            for _ in range(HALF_OPEN // len(HOSTS)):
                nursery.start_soon(one_client, endpoint)
                await trio.sleep(TICK_S)  # else all make their keys before the first one sends

    async with trio.open_nursery() as nursery:
        for number, host in enumerate(HOSTS):
            nursery.start_soon(lambda host=host, deaf=number % 2 == 0: one_host(host, deaf=deaf))


async def withheld_unproven(field: Field) -> None:
    async def session(field: Field, attacker: Attacker) -> None:
        attacker.withhold(CONTROL_STREAM, WITHHELD_BYTES)
        field.counts["streams"] += 1
        await wait_ended(attacker)

    await again_and_again(field, session, proven=False)


async def gaps(field: Field) -> None:
    """One byte far ahead in a stream, and the next one twice as far: what lies between has never been sent."""

    async def session(field: Field, attacker: Attacker) -> None:
        offset = GAP_FIRST
        while offset < GAP_LAST and not attacker.ended:
            attacker.skip_to(CONTROL_STREAM, offset)
            field.counts["bytes"] += 1
            await trio.sleep(GAP_PAUSE_S)  # for the answer that allows the next one
            offset *= 2
        await wait_ended(attacker)

    await again_and_again(field, session, proven=False)


# -- proven peers ----------------------------------------------------------------------------------------------------


async def garbage_bytes(field: Field) -> None:
    async def session(field: Field, attacker: Attacker) -> None:
        attacker.connection.write(CONTROL_STREAM, os.urandom(GARBAGE_BYTES))
        field.counts["links"] += 1
        await wait_ended(attacker)

    await again_and_again(field, session, proven=True)


def forged_store() -> Message:
    """Well-formed, of a real key, and with a signature for something else."""
    owner, key = macula.Identity.generate(), os.urandom(32)
    record = sign_record(
        owner, realm=REALM, key=key, kind="service", endpoint="127.0.0.1:9", metadata={}, seq=1, expires_ms=2**50
    )
    return wire.Store(key=os.urandom(32), value=record.to_value(), correlation_id=os.urandom(16))


def useless() -> tuple[bytes, ...]:
    return (
        encode_message(wire.Ping(timestamp=2**40)),
        HEADER.pack(VERSION, 0x7F, 32) + bytes(32),  # of a type that nobody knows
        encode_message(wire.Reply(call_id=os.urandom(16), result=b"1")),
        encode_message(wire.Pong(timestamp=2**40, server_time=0)),
    )


async def flood(field: Field, frames: list[bytes]) -> None:
    """The same frames at full speed."""
    chunk = b"".join(frames)

    async def session(field: Field, attacker: Attacker) -> None:
        while not attacker.ended:
            await attacker.write_slowly(chunk)
            field.counts["frames"] += len(frames)

    await again_and_again(field, session, proven=True)


async def useless_frames(field: Field) -> None:
    await flood(field, [frame for _ in range(CHUNK_FRAMES // 4) for frame in useless()])


async def find_nodes(field: Field) -> None:
    queries = [wire.FindNode(target=os.urandom(32), correlation_id=os.urandom(16)) for _ in range(CHUNK_FRAMES)]
    await flood(field, [encode_message(query) for query in queries])


async def forged_stores(field: Field) -> None:
    await flood(field, [encode_message(forged_store()) for _ in range(CHUNK_FRAMES)])


async def withheld_proven(field: Field) -> None:
    async def session(field: Field, attacker: Attacker) -> None:
        for number in range(1, WITHHELD_STREAMS + 1):
            attacker.withhold(4 * number, WITHHELD_BYTES)
            field.counts["streams"] += 1
        await wait_ended(attacker)

    await again_and_again(field, session, proven=True)


async def streams(field: Field) -> None:
    """First all the streams that it may hold open, each of which every packet has to walk by; then ever new ones."""

    async def session(field: Field, attacker: Attacker) -> None:
        header = HEADER.pack(VERSION, MessageType.PING, MAX_PAYLOAD)
        for number in range(1, 100):
            attacker.connection.write(4 * number, header[: HEADER_BYTES // 2])
        ping, quic = encode_message(wire.Ping(timestamp=2**40)), attacker.connection._quic
        while not attacker.ended:
            open_now = len(attacker.streams)
            for _ in range(max(0, 200 - open_now)):
                stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
                attacker.connection.write(stream_id, ping, end_stream=True)
                field.counts["streams"] += 1
            await trio.sleep(TICK_S)

    await again_and_again(field, session, proven=True)


async def never_reads(field: Field) -> None:
    """Fill a key, ask for all of it again and again, and show no sign of having read anything."""
    key, owners = os.urandom(32), [macula.Identity.generate() for _ in range(VALUES)]
    now_ms, metadata = UdpNetwork().wall_clock_ms(), {"x": bytes(VALUE_METADATA_BYTES)}
    values = [
        sign_record(
            owner,
            realm=REALM,
            key=key,
            kind="service",
            endpoint="127.0.0.1:9",
            metadata=metadata,
            seq=now_ms,
            expires_ms=now_ms + 600_000,
        )
        for owner in owners
    ]
    fill = b"".join(encode_message(wire.Store(key=key, value=value.to_value())) for value in values)
    question = encode_message(wire.FindValue(key=key, correlation_id=os.urandom(16)))

    async def session(field: Field, attacker: Attacker) -> None:
        attacker.connection.write(CONTROL_STREAM, fill + QUESTIONS * question)
        field.counts["questions"] += QUESTIONS
        await wait_ended(attacker)

    await again_and_again(field, session, proven=True, reads=False)


@attrs.frozen(kw_only=True)
class Attack:
    """One attack, and what it takes for it to have taken place.

    Attributes:
      unit: which of its counts is told.
      first: what it has to have sent before anything is measured.
      least: what it has to have sent before it may end.
      arrived: datagrams that the attacked node must have received meanwhile.
    """

    run: Callable[[Field], Awaitable[None]]
    unit: str
    least: int
    arrived: int
    first: int = 1


ATTACKS: Final[dict[str, Attack]] = {
    "initials": Attack(run=initials, unit="datagrams", least=INITIALS, arrived=INITIALS // 10),
    "garbage-initials": Attack(run=initials_of_garbage, unit="datagrams", least=INITIALS, arrived=INITIALS // 10),
    "garbage-datagrams": Attack(run=garbage_datagrams, unit="datagrams", least=INITIALS, arrived=INITIALS // 10),
    "half-open": Attack(run=half_open, unit="connections", least=HALF_OPEN, arrived=HALF_OPEN, first=HALF_OPEN),
    "withheld-unproven": Attack(run=withheld_unproven, unit="streams", least=10, arrived=100),
    "gaps": Attack(run=gaps, unit="bytes", least=10, arrived=20),
    "garbage-bytes": Attack(run=garbage_bytes, unit="links", least=10, arrived=50),
    "useless-frames": Attack(run=useless_frames, unit="frames", least=5_000, arrived=50),
    "find-nodes": Attack(run=find_nodes, unit="frames", least=5_000, arrived=50),
    "forged-stores": Attack(run=forged_stores, unit="frames", least=1_000, arrived=50),
    "withheld-proven": Attack(run=withheld_proven, unit="streams", least=WITHHELD_STREAMS, arrived=100),
    "streams": Attack(run=streams, unit="streams", least=1_000, arrived=50),
    "never-reads": Attack(run=never_reads, unit="questions", least=QUESTIONS, arrived=100),
}
