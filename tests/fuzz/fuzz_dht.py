"""What a peer can say to a node's DHT, asking or answering: nothing that its owner has not signed is believed.

The first byte says which message the MessagePack behind it is.  Requests go to the handlers; replies are what every
node answers to our lookups and stores.  The fuzzer has values that their owners have signed, and no key.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgpack
import trio
import trio.testing
from fuzz_hellos import owners, rsa_public_key
from fuzz_tools import MESSAGES, vary_map, vector_frames

from macula_trio._dht.client import DhtSettings
from macula_trio._dht.service import DhtService
from macula_trio._events import EventBus
from macula_trio._identity.keys import Credentials, node_id_of, spki
from macula_trio._identity.record import Record, read_record, sign_record
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._store.memory import MemoryStorage
from macula_trio._trust import Trust
from macula_trio._util import numeric_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_frame, decode_message, encode_message
from macula_trio._wire.frame import HEADER, HEADER_BYTES, VERSION, Frame, MessageType
from macula_trio.abc import Link, LinkTransport, Message, MessageHandler, ReplyT
from macula_trio.errors import ErrorCode, PeerUnavailable, RemoteProtocolError, TrustError

REALM: Final = "org.example.fuzz"
OTHER_REALM: Final = "org.other"
KEY: Final = dht_key("a.b")
NOW_MS: Final = 1_735_689_600_000
PATIENCE_S: Final = 3600  # virtual; whatever takes longer hangs
KINDS: Final = (
    *(MessageType.STORE, MessageType.FIND_VALUE, MessageType.FIND_NODE),
    *(MessageType.FIND_VALUE_REPLY, MessageType.FIND_NODE_REPLY, MessageType.STORE_REPLY),
)
OWN: Final = Credentials.from_seed(bytes(32))
OWN_METADATA: Final = {"own": 1}

vary = vary_map


def seeds() -> list[bytes]:
    values = [record.to_value() for record in _signed()]
    # The same data spelled with MessagePack's str, and a key that fits no signature.
    values.append({**values[0], "public_key": spki(rsa_public_key()), "node_id": node_id_of(spki(rsa_public_key()))})
    entries = tuple(wire.NodeEntry(node_id=bytes([n]) * 32, address=f"192.0.2.{n}:1") for n in range(1, 22))
    made: list[Message] = [wire.Store(key=KEY, value=value, correlation_id=bytes(16)) for value in values]
    made += [wire.FindValueReply(result="value", value=(value,), nodes=entries) for value in values]
    made += [wire.StoreReply(result="error", reason="stale", value=value, server_time=NOW_MS) for value in values]
    made += [
        wire.FindValueReply(result="value", value=tuple(values), more=True),
        wire.FindNodeReply(nodes=entries),
        wire.FindValue(key=KEY, kind="service", limit=1, after=bytes(32)),
        wire.FindNode(target=KEY),
    ]
    frames = [encode_message(message) for message in (*made, *MESSAGES)] + vector_frames()
    bodies = [frame for frame in frames if len(frame) > HEADER_BYTES and frame[1] in KINDS]
    spelled_as_str = bytes([0]) + msgpack.packb(
        {"key": KEY, "value": {**values[0], "metadata": {"a": "text"}}}, use_bin_type=True
    )
    return [bytes([KINDS.index(MessageType(frame[1]))]) + frame[HEADER_BYTES:] for frame in bodies] + [spelled_as_str]


def fuzz_one(data: bytes) -> None:
    if not data:
        return
    number = KINDS[data[0] % len(KINDS)]
    try:
        message = decode_message(Frame(*decode_frame(HEADER.pack(VERSION, number, len(data) - 1) + data[1:])))
    except RemoteProtocolError:
        return
    assert message is not None
    _read_values(message)
    trio.run(_confront, message, data[0] >= 128, clock=trio.testing.MockClock(autojump_threshold=0))


def _read_values(message: Message) -> None:
    """`read_record` itself gives a genuine value, or one of the errors that it documents."""
    value = getattr(message, "value", None)
    for each in value if isinstance(value, tuple) else () if value is None else (value,):
        try:
            record = read_record(each, realm=REALM, key=KEY)
        except (RemoteProtocolError, TrustError):
            continue
        assert _essence(record) in genuine()
        assert record.digest == next(known.digest for known in _signed() if _essence(known) == _essence(record))


async def _confront(message: Message, is_leaf: bool) -> None:
    transport = FakeTransport(message)
    service = _service(transport, is_leaf=is_leaf)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(service.serve)
            _ask_us(transport, service, message)
            for number in range(3):
                service._add(Contact(node_id=NodeId(bytes([number]) * 32), endpoint=f"192.0.2.{number}:2"))
            found = await service.client.find_value(KEY)
            assert all(_essence(record) in genuine() for record in found)
            assert all(not record.withdrawn and record.expires_ms > NOW_MS for record in found)
            for contact in await service.client.find_node(KEY):
                assert contact.node_id != OWN.node_id
                numeric_endpoint(contact.endpoint)
            report = await service.owner.store(KEY, "service", OWN_METADATA)
            assert is_leaf or OWN.node_id in (*report.stored, *report.refused)
            nursery.cancel_scope.cancel()
    own = [record for record in service.stored_values() if record.node_id == OWN.node_id]
    assert all(record.metadata == OWN_METADATA for record in own)
    _assert_genuine(service)


def _ask_us(transport: FakeTransport, service: DhtService, message: Message) -> None:
    """A request is answered once each time, on its link; the same again changes nothing."""
    handler = transport.handlers.get(type(message))
    if handler is None:
        return
    link = FakeLink(None, NodeId(bytes([77]) * 32))
    handler(link, message)
    held = service.stored_values()
    handler(link, message)
    assert service.stored_values() == held
    assert len(link.sent) == 2
    for sent in link.sent:
        encode_message(sent)
    _assert_genuine(service)


def _assert_genuine(service: DhtService) -> None:
    for record in service.stored_values():
        assert record.node_id == OWN.node_id or _essence(record) in genuine()


def _service(transport: FakeTransport, *, is_leaf: bool) -> DhtService:
    return DhtService(
        credentials=OWN,
        transport=transport,
        events=EventBus(trio.current_time),
        wall_clock_ms=lambda: NOW_MS,
        random_bytes=lambda count: hashlib.shake_128(b"%d" % next(transport.numbers)).digest(count),
        random_fraction=lambda: 0.5,
        resolve=_resolve_nothing,
        judge=TrustJudge(Trust.open(), realm=REALM),
        settings=DhtSettings(
            realm=REALM, endpoint="192.0.2.99:1", leaf=is_leaf, bootstraps=(), query_deadline_s=2.0, value_ttl_s=300.0
        ),
        storage=MemoryStorage(),
    )


async def _resolve_nothing(endpoint: str) -> str:
    await trio.lowlevel.checkpoint()
    raise OSError(f"no name is known here: {endpoint}")


# -- what the owners of the keys have signed ----------------------------------------------------------------------


@functools.cache
def _signed() -> tuple[Record, ...]:
    fields: dict[str, Any] = {
        "realm": REALM,
        "key": KEY,
        "kind": "service",
        "endpoint": "192.0.2.1:9443",
        "metadata": {"a": [1, b"b", None], "m": {"x": b"y"}},
        "seq": NOW_MS,
        "expires_ms": NOW_MS + 300_000,
    }
    variants: list[dict[str, Any]] = [
        {},
        {"kind": "subscriber", "metadata": {}},
        {"endpoint": None, "seq": NOW_MS + 1},
        {"metadata": {"a": b"text"}},
        {"expires_ms": NOW_MS - 1},
        {"expires_ms": 2**63 - 1, "seq": 2**63 - 1},
        {"metadata": {"big": bytes(4096)}},
        {"realm": OTHER_REALM, "metadata": {"of": b"another realm"}},
        {"key": dht_key("other")},
    ]
    first, *others = owners()
    made = [sign_record(first, **(fields | changes)) for changes in variants]
    return *made, *(sign_record(owner, **fields) for owner in others)


def _essence(record: Record) -> tuple[object, ...]:
    """Everything that a signature covers, but realm and key, which are the reader's."""
    metadata = msgpack.packb(record.metadata)
    return record.key, record.kind, record.node_id, record.endpoint, metadata, record.seq, record.expires_ms


@functools.cache
def genuine() -> frozenset[tuple[object, ...]]:
    return frozenset(_essence(record) for record in _signed() if "of" not in record.metadata)


# -- links to peers that all say the same --------------------------------------------------------------------------


@attrs.define(eq=False)
class FakeLink:
    """Answers every question by one message, or by nothing that fits."""

    answer: Message | None
    node_id: NodeId | None
    sent: list[Message] = attrs.field(factory=list)
    verified: bool = True
    endpoint: str | None = None
    proven_endpoint: str | None = None
    dialed_endpoint: str | None = None
    capabilities: frozenset[str] = frozenset()
    is_closed: bool = False
    is_congested: bool = False
    peer_host: str = "192.0.2.1"
    peer_is_leaving: bool = False

    def send_nowait(self, message: Message) -> None:
        self.sent.append(message)

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        await trio.lowlevel.checkpoint()
        encode_message(request)
        if isinstance(self.answer, reply_type):
            return self.answer
        if self.answer is None:
            raise PeerUnavailable("silent")
        raise RemoteProtocolError("another kind of answer", code=ErrorCode.UNEXPECTED_MESSAGE)

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        pass

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        pass


class FakeTransport:
    def __init__(self, answer: Message) -> None:
        self._answer = answer
        self.handlers: dict[type[Message], MessageHandler[Any]] = {}
        self.numbers = iter(range(1_000_000))

    async def link_to(self, contact: Contact) -> Link:
        await trio.lowlevel.checkpoint()
        return FakeLink(self._answer, contact.node_id)

    async def dial_endpoint(self, endpoint: str, *, expected: NodeId | None = None, trusted: bool = False) -> Link:
        await trio.lowlevel.checkpoint()
        raise PeerUnavailable(endpoint)

    def live_link(self, node_id: NodeId) -> Link | None:
        return None

    def handle(self, message_type: type[Message], handler: MessageHandler[Any]) -> None:
        self.handlers[message_type] = handler


def _conforms(transport: FakeTransport, link: FakeLink) -> tuple[LinkTransport, Link]:
    return transport, link  # mypy proves it
