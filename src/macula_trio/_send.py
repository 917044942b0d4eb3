"""One message without a node: the v0.8 peer connector."""

from __future__ import annotations

from collections.abc import Mapping

from macula_trio._chance import new_identity, new_instance, random_bytes
from macula_trio._identity.files import Identity
from macula_trio._identity.trust_file import load_trust
from macula_trio._net.udp import UdpNetwork
from macula_trio._peer.connector import send_once
from macula_trio._peer.handshake import LEAF, LocalParty
from macula_trio._trust import Trust
from macula_trio._util import parse_endpoint
from macula_trio._wire.codec import encode_frame
from macula_trio._wire.frame import MessageType
from macula_trio.abc import DatagramNetwork


async def send_message(
    endpoint: str,
    message_type: MessageType,
    body: Mapping[str, object],
    *,
    identity: Identity | None = None,
    realm: str | None = None,
    trust: Trust | None = None,
    linger: float = 0.1,
    dial_deadline_s: float = 5.0,
    network: DatagramNetwork | None = None,
) -> None:
    """The v0.8 peer connector: connect, write one frame, linger, close.  Fire and forget, owned by your nursery.

    By default both sides prove who they are first, and the linger is cut short when the peer has shown that it read
    the frame.  Under `Trust.unverified` exactly what v0.8 does: connect, write, sleep ``linger``, close.

    Args:
      endpoint: ``host:port``; of a name with several addresses each is tried, one after the other.
      message_type: of the frame.
      body: of the frame.
      identity: who we are; a new one by default.
      realm: needed but under `Trust.unverified`.
      trust: `Trust.open` by default.
      linger: seconds.
      dial_deadline_s: for the connection and both proofs.
      network: real UDP by default.

    Raises:
      PeerUnavailable: nobody answered, or the connection ended too early.
      TrustError: one side refused the other.
      LocalProtocolError: the body cannot be encoded.
      ValueError: a malformed endpoint, or no realm.
      OSError: the name does not resolve.
    """
    trust = load_trust(trust or Trust.open())
    if realm is None and trust.kind != "unverified":
        raise ValueError("realm: a proof names its realm; give one, or speak v0.8 by trust=Trust.unverified()")
    frame = encode_frame(message_type, body)
    network = network or UdpNetwork()
    host, port = parse_endpoint(endpoint)
    party = LocalParty(
        credentials=identity or new_identity(),
        instance=new_instance(),
        realm=realm or "",
        trust=trust,
        capabilities=(LEAF,),
    )
    await send_once(
        network,
        party,
        [(numeric, port) for numeric in await network.resolve(host)],
        frame,
        linger_s=linger,
        dial_deadline_s=dial_deadline_s,
        random_bytes=random_bytes,
    )
