"""The trust policies: what may be written down, what their files contain, and whom they let in."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from realm_tools import BEGIN, END, NAME, REALM, Authority

from macula_trio import _trust
from macula_trio._identity import trust as trust_module
from macula_trio._identity.files import Identity
from macula_trio._identity.trust import OWNER_CHAIN_BYTES_MAX, TrustJudge
from macula_trio._identity.trust_file import load_trust
from macula_trio._ids import NodeId
from macula_trio._trust import Trust
from macula_trio.errors import ErrorCode, TrustError

NOW_MS = 1_735_689_600_000
ROOT = Authority.create()
ALICE, BOB = Identity.from_seed(bytes([1]) * 32), Identity.from_seed(bytes([2]) * 32)


def ms(when: datetime.datetime) -> float:
    return when.timestamp() * 1000


def fingerprint(owner: Identity) -> bytes:
    return owner.chain[0].fingerprint(hashes.SHA256())


def judge(trust: Trust, realm: str = REALM) -> TrustJudge:
    return TrustJudge(trust, realm=realm)


def as_peer(judge: TrustJudge, owner: Identity, *, endpoint: str | None = None, now_ms: int = NOW_MS) -> float:
    return judge.judge_peer(owner.node_id, owner.chain_der, side="dialer", endpoint=endpoint, now_ms=now_ms)


def as_owner(
    judge: TrustJudge, owner: Identity, *, endpoint: str | None = "10.0.0.1:1", now_ms: int = NOW_MS, **changes: Any
) -> None:
    facts: dict[str, Any] = {"spki": owner.spki, "chain_der": owner.chain_der}
    judge.judge_owner(owner.node_id, endpoint=endpoint, now_ms=now_ms, **(facts | changes))


def refused(action: Callable[..., object], *args: Any, **keywords: Any) -> str:
    with pytest.raises(TrustError) as caught:
        action(*args, **keywords)
    assert caught.value.code is ErrorCode.UNTRUSTED
    return str(caught.value)


# -- what may be written down ------------------------------------------------------------------------------------


def test_a_list_is_of_ids_and_not_one_id_or_text() -> None:
    assert Trust.only([ALICE.node_id, bytes(32)]).node_ids == {ALICE.node_id, NodeId(bytes(32))}  # type: ignore[list-item]
    for bad in (ALICE.node_id, "ab" * 32, [b"short"]):
        with pytest.raises(ValueError, match="one entry|32 bytes"):
            Trust.only(bad)  # type: ignore[arg-type]


def test_a_fingerprint_may_be_written_as_tools_print_it() -> None:
    raw = fingerprint(ALICE)
    printed = ":".join(f"{byte:02X}" for byte in raw)
    assert Trust.pinned([raw, raw.hex(), printed]).fingerprints == {raw}
    for bad in (["zz"], ["ab" * 31], [b"short"], raw.hex()):
        with pytest.raises(ValueError, match="fingerprint|one entry"):
            Trust.pinned(bad)


def test_lists_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trust, "LISTED_MAX", 2)
    Trust.only([NodeId(bytes([n]) * 32) for n in range(2)])
    with pytest.raises(ValueError, match="3 entries, limit 2"):
        Trust.only([NodeId(bytes([n]) * 32) for n in range(3)])
    with pytest.raises(ValueError, match="more than 2 entries"):
        Trust.only(Path("list")).filled("\n".join("ab" * 32 for _ in range(3)).encode())


def test_a_realm_is_given_as_bytes_or_by_a_path() -> None:
    assert Trust.realm(ROOT.pem).path is None
    assert Trust.realm(Path("ca.pem")).path == Path("ca.pem")
    with pytest.raises(ValueError, match=r"pathlib\.Path"):
        Trust.realm("ca.pem")  # type: ignore[arg-type]


def test_a_long_list_is_not_printed() -> None:
    assert len(repr(Trust.only([NodeId(bytes([n]) * 32) for n in range(200)]))) < 200
    assert "BEGIN" not in repr(Trust.realm(ROOT.pem))


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_policy_without_a_file_stays_as_it_is() -> None:
    trust = Trust.only([ALICE.node_id])
    assert load_trust(trust) is trust


def test_lists_in_files_have_a_line_for_each_entry_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text(f"# friends\n\n{ALICE.node_id.hex()}  # Alice\n{BOB.node_id.hex().upper()}\n")
    assert load_trust(Trust.only(file)).node_ids == {ALICE.node_id, BOB.node_id}
    file.write_text(f"{fingerprint(ALICE).hex()}\n")
    assert load_trust(Trust.pinned(file)).fingerprints == {fingerprint(ALICE)}
    file.write_bytes(ROOT.pem)
    assert load_trust(Trust.realm(file, name="x")) == Trust(kind="realm", ca_pem=ROOT.pem, name="x", path=file)


@pytest.mark.parametrize("data", [b"\n\nab\n", b"\n\n\xff\xfe\n", b"\n\n" + b"zz" * 32])
def test_a_bad_line_is_named(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(data)
    for policy in (Trust.only, Trust.pinned):
        with pytest.raises(TrustError, match=rf"trust file {file}: line 3: "):
            load_trust(policy(file))


def test_a_file_that_cannot_be_read_or_is_too_long_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrustError, match=r"missing: cannot be read: No such file"):
        load_trust(Trust.only(tmp_path / "missing"))
    with pytest.raises(TrustError, match="cannot be read"):
        load_trust(Trust.only(tmp_path))
    file = tmp_path / "big"
    file.write_bytes(b"#" * 100)
    monkeypatch.setattr("macula_trio._identity.trust_file.BYTES_MAX", 99)
    with pytest.raises(TrustError, match="100 bytes are too many, limit 99"):
        load_trust(Trust.only(file))
    monkeypatch.setattr(_trust, "CA_PEM_BYTES_MAX", 50)
    monkeypatch.setattr("macula_trio._identity.trust_file.BYTES_MAX", 200)
    with pytest.raises(TrustError, match="too many for certificates"):
        load_trust(Trust.realm(file))


# -- who is let in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [Trust.open(), Trust.unverified()])
def test_without_a_list_everybody_who_is_not_blocked_is_let_in(trust: Trust) -> None:
    it = judge(trust)
    assert as_peer(it, ALICE) == inf
    as_owner(it, ALICE, chain_der=())
    assert it.server_check("10.0.0.1:1") is None
    it.block(ALICE.node_id)
    for action in (as_peer, as_owner):
        assert "blocked" in refused(action, it, ALICE)
        action(it, BOB)
    it.unblock(ALICE.node_id)
    it.unblock(BOB.node_id)
    as_peer(it, ALICE)


def test_the_number_of_the_blocked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "BLOCKED_MAX", 1)
    it = judge(Trust.open())
    it.block(ALICE.node_id)
    it.block(ALICE.node_id)
    with pytest.raises(ValueError, match="blocked already"):
        it.block(BOB.node_id)


def test_a_list_lets_in_whom_it_names_as_peers_and_as_owners() -> None:
    it = judge(Trust.only([ALICE.node_id]))
    assert as_peer(it, ALICE) == inf
    as_owner(it, ALICE, chain_der=())
    it.judge_id(ALICE.node_id)
    for action in (as_peer, as_owner):
        assert "not on our list" in refused(action, it, BOB)
    refused(it.judge_id, BOB.node_id)
    it.block(ALICE.node_id)
    refused(it.judge_id, ALICE.node_id)


def test_pins_are_those_of_the_certificate_that_is_shown() -> None:
    it = judge(Trust.pinned([fingerprint(ALICE)]))
    assert as_peer(it, ALICE) == inf
    as_owner(it, ALICE)
    it.judge_id(BOB.node_id)  # nothing is known of its certificate yet
    for action in (as_peer, as_owner):
        assert "fingerprint" in refused(action, it, BOB)
    renewed = Identity(ALICE.private_key, ROOT.issue(key=ALICE.private_key).chain)
    assert renewed.node_id == ALICE.node_id
    refused(as_peer, it, renewed)
    # The pinned certificate behind another leaf is no pin.
    refused(it.judge_peer, BOB.node_id, (*BOB.chain_der, *ALICE.chain_der), side="dialer", endpoint=None, now_ms=NOW_MS)


def test_a_realm_lets_in_its_own_as_long_as_their_certificates_last() -> None:
    it = judge(Trust.realm(ROOT.pem))
    assert as_peer(it, ROOT.issue()) == ms(END)
    soon = datetime.datetime.fromtimestamp(NOW_MS / 1000 + 60, datetime.UTC)
    short = ROOT.issue(end=soon)
    assert as_peer(it, short) == ms(soon)
    as_owner(it, short)
    as_owner(it, short)
    later = NOW_MS + 61_000
    assert "expired" in refused(as_peer, it, short, now_ms=later)
    assert "expired" in refused(as_owner, it, short, now_ms=later), "remembered longer than it is good"
    assert "not yet valid" in refused(as_owner, it, ROOT.issue(), now_ms=round(ms(BEGIN)) - 1000)


def test_a_realm_refuses_those_of_other_authorities_realms_and_none() -> None:
    it = judge(Trust.realm(ROOT.pem))
    for owner in (ALICE, Authority.create(2).issue(), ROOT.issue(names=["other.realm"])):
        refused(as_peer, it, owner)
        refused(as_owner, it, owner)
    assert "does not carry the name" in refused(as_peer, judge(Trust.realm(ROOT.pem), "org.other"), ROOT.issue())


def test_the_authority_is_read_when_the_policy_is_made() -> None:
    with pytest.raises(TrustError, match="no certificate in PEM form"):
        judge(Trust.realm(b""))


def test_a_policy_that_cannot_be_used_changes_nothing() -> None:
    it = judge(Trust.only([ALICE.node_id]))
    with pytest.raises(TrustError):
        it.change(Trust.realm(b"junk"))
    assert it.trust.kind == "only"
    as_peer(it, ALICE)
    it.change(Trust.only([BOB.node_id]))
    refused(as_peer, it, ALICE)


def test_who_is_blocked_stays_blocked_under_another_policy() -> None:
    it = judge(Trust.open())
    it.block(ALICE.node_id)
    it.change(Trust.only([ALICE.node_id]))
    refused(as_peer, it, ALICE)


def test_a_change_of_the_authority_counts_for_owners_that_are_remembered() -> None:
    it = judge(Trust.realm(ROOT.pem))
    as_owner(it, ROOT.issue())
    it.change(Trust.realm(Authority.create(2).pem))
    refused(as_owner, it, ROOT.issue())


def test_the_certificate_of_an_owner_is_that_of_the_key_that_signed() -> None:
    it = judge(Trust.realm(ROOT.pem))
    mallory, good = Identity.from_seed(bytes([6]) * 32), ROOT.issue()
    as_owner(it, good)
    assert "not that of its owner's key" in refused(as_owner, it, mallory, chain_der=good.chain_der)
    assert "must be 1 to" in refused(as_owner, it, good, chain_der=())
    assert "bytes of certificates" in refused(as_owner, it, good, chain_der=(bytes(OWNER_CHAIN_BYTES_MAX + 1),))


def test_an_owner_that_is_remembered_is_not_believed_before_its_time() -> None:
    it = judge(Trust.realm(ROOT.pem))
    owner = ROOT.issue()
    as_owner(it, owner)
    refused(as_owner, it, owner, now_ms=int(ms(BEGIN)) - 1)  # our clock was ahead, and has been set right


@pytest.mark.parametrize("trust", [Trust.realm(ROOT.pem), Trust.pinned([bytes(32)])], ids=["realm", "pinned"])
def test_a_certificate_of_an_unknown_kind_of_key_is_a_refusal(trust: Trust) -> None:
    """Any member can put one beside a value of its own."""
    ed25519, unknown = bytes.fromhex("300506032b6570"), bytes.fromhex("300506032b657f")
    der = ALICE.chain_der[0]
    places = [place for place in range(len(der)) if der.startswith(ed25519, place)]
    assert len(places) == 3, "of the signature, of the key, and of the signature once more"
    odd = der[: places[1]] + unknown + der[places[1] + len(unknown) :]
    refused(as_owner, judge(trust), ALICE, chain_der=(odd,))
    with pytest.raises(TrustError):
        judge(trust).judge_peer(ALICE.node_id, (odd,), side="dialer", endpoint=None, now_ms=NOW_MS)


def test_the_memory_of_owners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "OWNERS_REMEMBERED", 3)
    it = judge(Trust.realm(ROOT.pem))
    for seed in range(10, 20):
        as_owner(it, ROOT.issue(seed))
    assert len(it._owners) == 3


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_company_has_its_own_names() -> None:
    host = ROOT.issue(names=["node1.example.org"])
    it = judge(Trust.realm(ROOT.pem, name="node1.example.org"))
    as_peer(it, host)
    as_owner(it, host)
    refused(as_peer, it, ROOT.issue())
    check = it.server_check("10.0.0.1:1")
    assert check is not None
    assert (check.ca_pem, check.name) == (ROOT.pem, "node1.example.org")


def test_names_may_depend_on_the_endpoint() -> None:
    hosts = {"10.0.0.1:1": "node1.example.org", "10.0.0.3:1": "node3.example.org"}
    host = ROOT.issue(names=["node1.example.org"])
    it = judge(Trust.realm(ROOT.pem, name=hosts.__getitem__))
    as_peer(it, host, endpoint="10.0.0.1:1")
    as_peer(it, host, endpoint="https://10.0.0.1:1")
    as_owner(it, host)
    as_owner(it, host, endpoint=None)  # withdrawn: it leads nobody anywhere
    for endpoint in ("10.0.0.2:1", "10.0.0.3:1", "no.number:1", "\ud800", None):
        refused(as_peer, it, host, endpoint=endpoint)
    for endpoint in ("10.0.0.2:1", "10.0.0.3:1"):  # although its chain was good a moment ago, elsewhere
        refused(as_owner, it, host, endpoint=endpoint)
    refused(it.server_check, "10.0.0.2:1")
    refused(as_peer, judge(Trust.realm(ROOT.pem, name=hosts.get)), host, endpoint="10.0.0.2:1")


def test_whatever_a_function_for_names_does_it_is_a_refusal_and_no_more() -> None:
    """It is the application's, and is asked in the midst of what a peer has sent."""

    def fails(_endpoint: str) -> str:
        raise AttributeError("a mistake")

    for name in (fails, lambda _endpoint: b"bytes", lambda _endpoint: 5, lambda _endpoint: ""):
        it = judge(Trust.realm(ROOT.pem, name=name))  # type: ignore[arg-type]
        for action in (as_peer, as_owner):
            refused(action, it, ROOT.issue(), endpoint="10.0.0.1:1")
        refused(it.server_check, "10.0.0.1:1")


def test_the_name_of_a_realm_is_made_of_its_own() -> None:
    check = judge(Trust.realm(ROOT.pem)).server_check("10.0.0.1:1")
    assert check is not None
    assert check.name == NAME
