from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from macula_trio._identity.proof import BINDING_BYTES, channel_binding, proof_data

CLIENT: Final = bytes(range(32))
SERVER: Final = bytes(range(32, 80))  # 48 bytes, as with SHA-384
ID: Final = st.binary(min_size=32, max_size=32)


def hkdf_by_hand(material: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt and one block of output."""
    extracted = hmac.digest(bytes(32), material, hashlib.sha256)
    return hmac.digest(extracted, b"macula-trio/1 binding" + b"\x01", hashlib.sha256)


def test_the_binding_is_the_hkdf_that_the_design_says() -> None:
    binding = channel_binding(CLIENT, SERVER)
    assert len(binding) == BINDING_BYTES == 32
    assert binding == hkdf_by_hand(CLIENT + SERVER)


@given(st.binary(min_size=32, max_size=48), st.binary(min_size=32, max_size=48))
def test_both_ends_bind_alike_and_swapped_secrets_bind_otherwise(client: bytes, server: bytes) -> None:
    assert channel_binding(client, server) == hkdf_by_hand(client + server)
    assert (channel_binding(client, server) == channel_binding(server, client)) == (client + server == server + client)


def test_what_is_signed_is_laid_out_as_the_design_says() -> None:
    binding, own, peer = b"b" * 32, b"o" * 32, b"p" * 32
    dialer = proof_data("dialer", binding=binding, node_id=own, peer_node_id=peer, realm="org.example")
    assert dialer == b"macula-trio/1 dialer" + binding + own + peer + b"org.example"
    listener = proof_data("listener", binding=binding, node_id=own, peer_node_id=peer, realm="org.example")
    assert listener == b"macula-trio/1 listener" + binding + own + peer + b"org.example"


def test_a_realm_is_signed_as_utf_8() -> None:
    data = proof_data("dialer", binding=bytes(32), node_id=bytes(32), peer_node_id=bytes(32), realm="é")
    assert data.endswith(bytes(96) + b"\xc3\xa9")


PARTS: Final = st.tuples(st.sampled_from(["dialer", "listener"]), ID, ID, ID, st.text(max_size=5))


@given(PARTS, PARTS)
def test_two_claims_never_sign_the_same_bytes(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    def data(parts: tuple[str, ...]) -> bytes:
        side, binding, own, peer, realm = parts
        return proof_data(side, binding=binding, node_id=own, peer_node_id=peer, realm=realm)  # type: ignore[arg-type]

    assert (data(first) == data(second)) == (first == second)
