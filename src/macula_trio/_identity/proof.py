"""The channel-bound proof of CONNECT and PONG: who speaks, to whom, in which realm, over which connection.

Sans-IO (DESIGN section 5).  The binding comes from the traffic secrets of the very TLS connection, so a man
in the middle, who has two connections, has two bindings, and a relayed proof fails.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Side: TypeAlias = Literal["dialer", "listener"]

BINDING_BYTES: Final = 32
_PROOF_CONTEXT: Final = b"macula-trio/1 "
_BINDING_INFO: Final = b"macula-trio/1 binding"


def channel_binding(client_secret: bytes, server_secret: bytes) -> bytes:
    """Bind to a TLS 1.3 connection: 32 bytes that only its two ends know.

    Args:
      client_secret: CLIENT_TRAFFIC_SECRET_0 (RFC 8446, section 7.1).
      server_secret: SERVER_TRAFFIC_SECRET_0.
    """
    hkdf = HKDF(hashes.SHA256(), length=BINDING_BYTES, salt=None, info=_BINDING_INFO)
    return hkdf.derive(client_secret + server_secret)


def proof_data(side: Side, *, binding: bytes, node_id: bytes, peer_node_id: bytes, realm: str) -> bytes:
    """What the node ``node_id`` on this side of the connection signs.

    Args:
      side: whose proof it is.
      binding: `channel_binding` of the connection.
      node_id: the signer's id, 32 bytes.
      peer_node_id: the id of the other side, 32 bytes; zeros when a dialer does not know it.
      realm: the realm's name.
    """
    return _PROOF_CONTEXT + side.encode() + binding + node_id + peer_node_id + realm.encode()
