from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import attrs
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._identity.keys import Credentials
from macula_trio._ids import NodeId
from macula_trio._peer.handshake import (
    ANONYMOUS,
    CAPABILITIES_MAX,
    UNKNOWN_PEER,
    LocalParty,
    RemoteParty,
    accept_connect,
    accept_pong,
    judge_again,
    make_connect,
    make_pong,
)
from macula_trio._trust import Trust
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_message
from macula_trio._wire.messages import Connect, Pong
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, OwnIdentity, RealmMismatch, RemoteProtocolError, TrustError

REALM: Final = "org.example"
BINDING: Final = bytes(range(32))
OTHER_BINDING: Final = bytes(range(1, 33))
NOW_MS: Final = 1_735_689_600_000
AHEAD_MS: Final = 6  # of the listener's clock


def party(seed: int, **changes: Any) -> LocalParty:
    fields: dict[str, Any] = {
        "credentials": Credentials.from_seed(bytes([seed]) * 32),
        "instance": bytes([seed]) * 16,
        "realm": REALM,
        "trust": Trust.open(),
        "capabilities": ("msgpack", "leaf"),
        "endpoint": f"192.0.2.{seed}:9443",
    }
    return LocalParty(**(fields | changes))


DIALER: Final = party(1)
LISTENER: Final = party(2)
STRANGER: Final = party(3)
TRUSTING: Final = party(2, trust=Trust.unverified())
TRUSTING_DIALER: Final = party(1, trust=Trust.unverified())


def connect(who: LocalParty = DIALER, *, to: LocalParty | None = LISTENER, binding: bytes = BINDING) -> Connect:
    return make_connect(who, binding=binding, peer=None if to is None else to.credentials.node_id)


def pong(who: LocalParty = LISTENER, *, to: LocalParty = DIALER, binding: bytes = BINDING) -> Pong:
    peer = RemoteParty(node_id=to.credentials.node_id, verified=True)
    return make_pong(who, binding=binding, peer=peer, timestamp=5, server_time=NOW_MS + AHEAD_MS)


def judge_connect(message: Connect, *, by: LocalParty = LISTENER) -> RemoteParty:
    return accept_connect(by, message, binding=BINDING, now_ms=NOW_MS)


def judge_pong(message: Pong, *, by: LocalParty = DIALER, dialed: LocalParty | None = LISTENER) -> RemoteParty:
    return accept_pong(
        by, message, binding=BINDING, peer=None if dialed is None else dialed.credentials.node_id, now_ms=NOW_MS
    )


def travelled(message: Message) -> Any:
    decoder = FrameDecoder()
    decoder.receive_data(encode_message(message))
    frame = decoder.next_frame()
    assert frame is not None
    return decode_message(frame)


def known(who: LocalParty) -> RemoteParty:
    return RemoteParty(
        node_id=who.credentials.node_id,
        verified=True,
        instance=who.instance,
        capabilities=frozenset(who.capabilities),
        endpoint=who.endpoint,
        chain=who.credentials.chain_der,
    )


def answering(who: LocalParty) -> RemoteParty:
    """The same by its PONG, which tells the time."""
    return attrs.evolve(known(who), clock_ahead_ms=AHEAD_MS)


# -- both sides prove themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [LISTENER, None], ids=["dialed for its id", "dialed by address"])
def test_a_proven_dialer_is_known_by_its_first_frame(to: LocalParty | None) -> None:
    assert judge_connect(travelled(connect(to=to))) == known(DIALER)


@pytest.mark.parametrize("dialed", [LISTENER, None], ids=["dialed for its id", "dialed by address"])
def test_a_proven_listener_is_known_by_its_answer(dialed: LocalParty | None) -> None:
    answer = travelled(pong())
    assert (answer.timestamp, answer.server_time) == (5, NOW_MS + AHEAD_MS)
    assert judge_pong(answer, dialed=dialed) == answering(LISTENER)


def test_an_answer_says_where_the_dialer_is_seen_and_that_proves_nothing() -> None:
    peer = RemoteParty(node_id=DIALER.credentials.node_id, verified=True)
    seen_at = ("2001:db8::7", 40_001)
    answer = make_pong(LISTENER, binding=BINDING, peer=peer, timestamp=5, server_time=NOW_MS, observed=seen_at)
    assert travelled(answer).observed == "[2001:db8::7]:40001"
    same_time = attrs.evolve(known(LISTENER), clock_ahead_ms=0)
    assert judge_pong(answer) == judge_pong(attrs.evolve(answer, observed="a lie")) == same_time
    assert pong().observed is None


def test_a_node_that_has_moved_says_so_in_every_later_hello() -> None:
    mover = party(5)
    mover.endpoint = "198.51.100.7:9443"
    assert judge_connect(travelled(connect(mover))).endpoint == "198.51.100.7:9443"
    assert judge_pong(travelled(pong(mover)), dialed=mover).endpoint == "198.51.100.7:9443"


def test_a_connect_that_names_nobody_means_the_same_as_zeros() -> None:
    message = connect(to=None)
    assert message.peer_node_id == UNKNOWN_PEER == bytes(32)
    assert judge_connect(attrs.evolve(message, peer_node_id=None)) == known(DIALER)


def test_a_node_of_a_company_proves_its_certificate_with_issuers() -> None:
    leaf = trustme.CA().create_child_ca().issue_cert("node.example.org")
    who = party(4, credentials=Credentials.from_pem(leaf.private_key_and_cert_chain_pem.bytes()))
    assert judge_connect(travelled(connect(who))) == known(who)
    assert judge_pong(travelled(pong(who)), dialed=who) == answering(who)


def test_a_node_proves_itself_under_any_policy() -> None:
    assert judge_connect(connect(TRUSTING_DIALER)) == known(DIALER)
    assert judge_connect(connect(), by=TRUSTING) == known(DIALER)
    assert judge_pong(pong(TRUSTING), by=TRUSTING_DIALER) == answering(LISTENER)


def test_a_node_that_knows_no_endpoint_of_its_own_says_none() -> None:
    who = party(4, endpoint=None, capabilities=())
    assert judge_connect(travelled(connect(who))) == known(who)


@pytest.mark.parametrize(
    ("ahead_ms", "differs"), [(0, False), (60_000, False), (-60_000, False), (60_001, True), (-60_001, True)]
)
def test_a_clock_differs_by_more_than_replicas_bear(ahead_ms: int, differs: bool) -> None:
    told = judge_pong(attrs.evolve(pong(), server_time=NOW_MS + ahead_ms))
    assert (told.clock_ahead_ms, told.clock_differs) == (ahead_ms, differs)
    assert not judge_connect(connect()).clock_differs


def test_the_time_of_a_peer_that_proves_nothing_means_nothing() -> None:
    liar = attrs.evolve(pong(TRUSTING), proof=None, server_time=0)
    assert judge_pong(liar, by=TRUSTING_DIALER, dialed=None).clock_ahead_ms is None


# -- and each refusal ----------------------------------------------------------------------------------------------


def test_another_realm_is_refused_before_anything_else() -> None:
    elsewhere = party(1, realm="org.other")
    with pytest.raises(RealmMismatch, match="we are in realm 'org.example', not 'org.other'; nodes of one mesh"):
        judge_connect(connect(elsewhere))
    with pytest.raises(RealmMismatch):
        judge_connect(Connect(realm_id="org.other"), by=TRUSTING)
    with pytest.raises(TrustError, match="signature"):
        judge_connect(attrs.evolve(connect(elsewhere), realm_id=REALM))


def test_an_answer_from_another_realm_is_refused() -> None:
    with pytest.raises(TrustError, match="signature"):
        judge_pong(pong(party(2, realm="org.other")))


def test_a_proof_of_one_side_does_not_serve_the_other() -> None:
    answer, hello = pong(), connect()
    with pytest.raises(TrustError, match="signature"):
        judge_pong(attrs.evolve(answer, proof=connect(LISTENER, to=DIALER).proof))
    with pytest.raises(TrustError, match="signature"):
        judge_connect(attrs.evolve(hello, proof=pong(DIALER, to=LISTENER).proof))


def test_a_proof_relayed_from_another_connection_is_refused() -> None:
    with pytest.raises(TrustError, match="signature"):
        judge_connect(connect(binding=OTHER_BINDING))
    with pytest.raises(TrustError, match="signature"):
        judge_pong(pong(binding=OTHER_BINDING))


def test_a_dialer_that_wants_somebody_else_is_refused() -> None:
    with pytest.raises(TrustError, match="dialed for another node"):
        judge_connect(connect(to=STRANGER))
    with pytest.raises(TrustError, match="dialed for another node"):
        judge_connect(Connect(realm_id=REALM, peer_node_id=STRANGER.credentials.node_id), by=TRUSTING)


@pytest.mark.parametrize("told", [UNKNOWN_PEER, None])
def test_whom_a_dialer_wants_is_under_its_signature(told: bytes | None) -> None:
    with pytest.raises(TrustError, match="signature"):
        judge_connect(attrs.evolve(connect(to=STRANGER), peer_node_id=LISTENER.credentials.node_id))
    with pytest.raises(TrustError, match="signature"):
        judge_connect(attrs.evolve(connect(), peer_node_id=told))


def test_an_answer_to_somebody_else_is_refused() -> None:
    with pytest.raises(TrustError, match="answers to another node"):
        judge_pong(pong(to=STRANGER))
    with pytest.raises(TrustError, match="answers to another node"):
        judge_pong(attrs.evolve(pong(), peer_node_id=None))
    with pytest.raises(TrustError, match="signature"):
        judge_pong(attrs.evolve(pong(to=STRANGER), peer_node_id=DIALER.credentials.node_id))


def test_an_answer_of_somebody_else_than_was_dialed_is_refused_even_when_it_is_proven() -> None:
    with pytest.raises(TrustError, match=f"dialed node {LISTENER.credentials.node_id}, but node .* answered"):
        judge_pong(pong(STRANGER))
    with pytest.raises(TrustError, match="but node .* answered"):
        judge_pong(Pong(timestamp=0, server_time=0, node_id=STRANGER.credentials.node_id), by=TRUSTING_DIALER)


def test_who_says_nothing_of_itself_is_taken_for_whom_was_dialed_where_no_proof_is_wanted() -> None:
    remote = judge_pong(Pong(timestamp=0, server_time=0), by=TRUSTING_DIALER)
    assert (remote.node_id, remote.verified) == (LISTENER.credentials.node_id, False)
    with pytest.raises(TrustError, match="proves nothing"):
        judge_pong(Pong(timestamp=0, server_time=0))


Hello = Connect | Pong
HELLOS: Final[list[tuple[Hello, Callable[..., RemoteParty], LocalParty]]] = [
    (connect(), judge_connect, TRUSTING),
    (pong(), judge_pong, TRUSTING_DIALER),
]
both = pytest.mark.parametrize(("hello", "judge", "trusting"), HELLOS, ids=["CONNECT", "PONG"])


@both
def test_an_id_that_is_not_the_certificates_is_refused(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    with pytest.raises(TrustError, match="node_id is not that of the certificate's key"):
        judge(attrs.evolve(hello, node_id=STRANGER.credentials.node_id))
    with pytest.raises(TrustError, match="node_id is not that of the certificate's key"):
        judge(attrs.evolve(hello, certificate_chain=STRANGER.credentials.chain_der))


@both
def test_the_id_and_the_chain_of_somebody_else_do_not_go_with_our_proof(
    hello: Hello, judge: Any, trusting: LocalParty
) -> None:
    other = STRANGER.credentials
    with pytest.raises(TrustError, match="signature"):
        judge(attrs.evolve(hello, node_id=other.node_id, certificate_chain=other.chain_der))


@both
def test_chains_out_of_order_are_refused(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    assert hello.certificate_chain is not None
    chain = (*STRANGER.credentials.chain_der, *hello.certificate_chain)
    with pytest.raises(TrustError, match="node_id is not that"):
        judge(attrs.evolve(hello, certificate_chain=chain))
    assert judge(attrs.evolve(hello, certificate_chain=chain[::-1])).verified


@both
@pytest.mark.parametrize("field", ["node_id", "instance", "certificate_chain"])
def test_a_proof_without_its_company_is_refused_under_any_policy(
    hello: Hello, judge: Any, trusting: LocalParty, field: str
) -> None:
    for by in ({}, {"by": trusting}):
        with pytest.raises(TrustError, match="proof without"):
            judge(attrs.evolve(hello, **{field: None}), **by)


@both
@pytest.mark.parametrize("chain", [(), (b"",), (b"garbage",), (b"\x30\x82",) * 3, DIALER.credentials.chain_der * 9])
def test_a_chain_that_is_no_chain_is_refused(
    hello: Hello, judge: Any, trusting: LocalParty, chain: tuple[bytes, ...]
) -> None:
    with pytest.raises(TrustError, match="certificate"):
        judge(attrs.evolve(hello, certificate_chain=chain))


@both
def test_a_bad_proof_is_refused_under_any_policy(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    assert hello.proof is not None
    for proof in (b"", hello.proof[:-1], hello.proof + b"\0", bytes(64)):
        for by in ({}, {"by": trusting}):
            with pytest.raises(TrustError, match="signature"):
                judge(attrs.evolve(hello, proof=proof), **by)


@both
def test_no_proof_is_refused_unless_the_policy_is_unverified(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    silent = attrs.evolve(hello, proof=None)
    with pytest.raises(TrustError, match="proves nothing; only Trust.unverified"):
        judge(silent)
    remote = judge(silent, by=trusting)
    assert not remote.verified
    assert remote.node_id == hello.node_id


def test_a_v08_peer_is_taken_as_it_is_under_unverified() -> None:
    assert judge_connect(Connect(realm_id=REALM), by=TRUSTING) == ANONYMOUS
    assert judge_pong(Pong(timestamp=0, server_time=0), by=TRUSTING_DIALER, dialed=None) == ANONYMOUS


def test_what_we_answer_to_a_peer_without_an_id_names_nobody() -> None:
    answer = make_pong(TRUSTING, binding=BINDING, peer=ANONYMOUS, timestamp=0, server_time=0)
    assert answer.peer_node_id == UNKNOWN_PEER
    with pytest.raises(TrustError, match="answers to another node"):
        judge_pong(answer, by=TRUSTING_DIALER)


@both
def test_our_own_id_is_refused_proven_or_not(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    mine = party(trusting.instance[0], instance=b"another instance")
    own = connect(mine, to=mine) if isinstance(hello, Connect) else pong(mine, to=mine)
    with pytest.raises(OwnIdentity, match="another node runs with the same key; give every node a key of its own"):
        judge(own)
    with pytest.raises(OwnIdentity, match="same key"):
        judge(attrs.evolve(own, proof=None), by=trusting)


def test_our_own_frame_sent_back_to_us_is_refused() -> None:
    reflected = connect(to=None)
    with pytest.raises(TrustError, match="our own node id"):
        judge_connect(reflected, by=DIALER)
    shared = {name: getattr(reflected, name) for name in ("node_id", "instance", "certificate_chain", "proof")}
    with pytest.raises(TrustError, match="signature"):
        judge_pong(Pong(timestamp=0, server_time=0, peer_node_id=DIALER.credentials.node_id, **shared))


@both
def test_too_many_capabilities_are_refused_whatever_the_rest(hello: Hello, judge: Any, trusting: LocalParty) -> None:
    most = tuple(f"c{number}" for number in range(CAPABILITIES_MAX))
    assert judge(attrs.evolve(hello, capabilities=most)).capabilities == frozenset(most)
    for changes in ({}, {"proof": None}):
        with pytest.raises(RemoteProtocolError, match="33 capabilities") as error:
            judge(attrs.evolve(hello, capabilities=(*most, "one more"), **changes), by=trusting)
        assert error.value.code is ErrorCode.LIMIT_EXCEEDED


# -- any change of what is covered ---------------------------------------------------------------------------------


def turn_bit(data: bytes, bit: int) -> bytes:
    bit %= 8 * len(data)
    return (int.from_bytes(data, "big") ^ (1 << bit)).to_bytes(len(data), "big")


@st.composite
def forgeries(draw: st.DrawFn, hello: Hello) -> Hello:
    """A proven message with one field changed that the proof covers; of the certificate, its key."""
    names = ["node_id", "peer_node_id", "proof", "certificate_chain", "instance"]
    name = draw(st.sampled_from(names + ["realm_id"] * isinstance(hello, Connect)))
    if name == "realm_id":
        return attrs.evolve(hello, realm_id=draw(st.text(max_size=12).filter(lambda text: text != REALM)))
    if name == "instance" or (name != "proof" and draw(st.booleans())):
        return attrs.evolve(hello, **{name: None})
    bit = draw(st.integers(0, 2**12))
    if name != "certificate_chain":
        return attrs.evolve(hello, **{name: turn_bit(getattr(hello, name), bit)})
    assert hello.certificate_chain is not None
    own = (DIALER if isinstance(hello, Connect) else LISTENER).credentials.spki
    before, found, after = hello.certificate_chain[0].partition(own)
    assert found
    return attrs.evolve(hello, certificate_chain=(before + turn_bit(own, bit) + after,))


def require_refusal_or_same_key(forged: Hello, original: Hello, judge: Callable[[], RemoteParty]) -> None:
    """Before cryptography 50 a key may be written in several ways; then whose it is, is the same."""
    try:
        judged = judge()
    except TrustError:
        return
    assert judged.node_id == original.node_id
    assert attrs.evolve(forged, certificate_chain=original.certificate_chain) == original
    assert tuple(map(int, version("cryptography").split(".")[:1])) < (50,)


@given(forgeries(connect()))
def test_no_change_of_a_proven_connect_is_accepted(forged: Hello) -> None:
    assert isinstance(forged, Connect)
    for by in (LISTENER, TRUSTING):
        require_refusal_or_same_key(forged, connect(), partial(judge_connect, forged, by=by))


@given(forgeries(pong()), st.booleans())
def test_no_change_of_a_proven_answer_is_accepted(forged: Hello, dialed: bool) -> None:
    assert isinstance(forged, Pong)
    for by in (DIALER, TRUSTING_DIALER):
        judge = partial(judge_pong, forged, by=by, dialed=LISTENER if dialed else None)
        require_refusal_or_same_key(forged, pong(), judge)


@given(st.integers(0, 255))
def test_no_other_binding_is_accepted(bit: int) -> None:
    binding = turn_bit(BINDING, bit)
    with pytest.raises(TrustError):
        accept_connect(LISTENER, connect(), binding=binding, now_ms=NOW_MS)
    with pytest.raises(TrustError):
        accept_pong(DIALER, pong(), binding=binding, peer=None, now_ms=NOW_MS)


# -- what the other side is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RealmMismatch("other"), ErrorCode.REALM_MISMATCH),
        (OwnIdentity("mine"), ErrorCode.OWN_IDENTITY),
        (TrustError("no"), ErrorCode.BAD_PROOF),
        (RemoteProtocolError("much", code=ErrorCode.LIMIT_EXCEEDED), ErrorCode.LIMIT_EXCEEDED),
    ],
)
def test_a_refusal_has_a_code_for_the_wire(error: TrustError | RemoteProtocolError, code: ErrorCode) -> None:
    assert error.code is code


def test_an_accepted_id_is_a_node_id() -> None:
    assert isinstance(judge_connect(travelled(connect())).node_id, NodeId)


def test_a_stranger_who_was_taken_in_is_not_under_a_stricter_policy() -> None:
    assert judge_again(TRUSTING, ANONYMOUS, is_dialed=False, now_ms=NOW_MS) == ANONYMOUS
    with pytest.raises(TrustError) as caught:
        judge_again(LISTENER, ANONYMOUS, is_dialed=False, now_ms=NOW_MS)
    assert caught.value.code is ErrorCode.PROOF_REQUIRED
