"""What a new connection is made with, and what its TLS handshake leaves: the secrets for the channel binding.

With ``connection.py``, ``credit.py``, ``greeting.py``, ``inner.py`` and ``quic.py`` the only files that import aioquic.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable
from typing import Final

import attrs
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from macula_trio._identity.keys import Credentials
from macula_trio._identity.proof import channel_binding
from macula_trio._identity.trust import ServerCheck
from macula_trio._net.credit import WINDOW_UNPROVEN_BYTES

ALPN: Final = "macula"
CONNECTION_ID_BYTES: Final = 8
INITIAL_RTT_S: Final = QuicConfiguration().initial_rtt  # from which aioquic's first time-outs follow

# TLS alerts about a certificate (RFC 8446, section 6), as error codes of QUIC (RFC 9001, section 4.8).
CERTIFICATE_ALERTS: Final = frozenset(
    QuicErrorCode.CRYPTO_ERROR + alert
    for alert in (
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    )
)


class Secrets(io.StringIO):
    """Collects the two application traffic secrets of one connection, in memory, for the channel binding.

    This is the file behind aioquic's public ``secrets_log_file``: lines of a label, TLS's client random, a secret.

    Attributes:
      client_random: 32 bytes; empty before the handshake is completed.
    """

    def __init__(self, tee: Callable[[str], None] | None) -> None:
        super().__init__()
        self._tee = tee
        self._found: dict[str, bytes] = {}
        self.client_random: bytes = b""

    def write(self, line: str) -> int:
        label, _, rest = line.partition(" ")
        if label in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
            client_random, secret = rest.split()
            self._found[label] = bytes.fromhex(secret)
            self.client_random = bytes.fromhex(client_random)
        if self._tee is not None:
            self._tee(line)
        return len(line)

    def take_binding(self) -> bytes:
        """Derive the binding and forget the secrets."""
        client, server = self._found.pop("CLIENT_TRAFFIC_SECRET_0"), self._found.pop("SERVER_TRAFFIC_SECRET_0")
        return channel_binding(client, server)


@attrs.define(eq=False, kw_only=True)
class ConnectionMaker:
    """Makes what is beneath the connections of one socket.

    Attributes:
      credentials: their chain and key are what TLS shows, from the next connection on.
      idle_timeout_s: a connection silent for so long is gone.
      keylog: receives lines in the NSS key log format; None keeps the secrets secret.
    """

    credentials: Credentials
    idle_timeout_s: float
    keylog: Callable[[str], None] | None

    def dialed(self, size: int, check: ServerCheck | None) -> tuple[QuicConnection, Secrets]:
        """One of ours, with datagrams of ``size`` bytes; ``check`` is what the listener's certificate must be."""
        configuration, secrets = self._configure(is_client=True, size=size)
        if check is not None:
            configuration.verify_mode = ssl.CERT_REQUIRED
            configuration.cadata = check.ca_pem
            configuration.server_name = check.name
        return QuicConnection(configuration=configuration), secrets

    def accepted(self, size: int, original_cid: bytes, retry_cid: bytes | None) -> tuple[QuicConnection, Secrets]:
        """One that somebody dialed to us.

        Args:
          size: of our datagrams, in bytes.
          original_cid: what the dialer's first datagram was addressed to.
          retry_cid: what it has been told instead by a Retry, if there was one.
        """
        configuration, secrets = self._configure(is_client=False, size=size)
        configuration.certificate = self.credentials.chain[0]
        configuration.certificate_chain = list(self.credentials.chain[1:])
        configuration.private_key = self.credentials.private_key
        quic = QuicConnection(
            configuration=configuration,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        return quic, secrets

    def _configure(self, *, is_client: bool, size: int) -> tuple[QuicConfiguration, Secrets]:
        secrets = Secrets(self.keylog)
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN],
            connection_id_length=CONNECTION_ID_BYTES,
            idle_timeout=self.idle_timeout_s,
            is_client=is_client,
            max_data=WINDOW_UNPROVEN_BYTES,
            max_datagram_size=size,
            secrets_log_file=secrets,
            # Who the peer is, the proof in CONNECT and PONG decides (DESIGN section 5), bound to this channel.
            verify_mode=ssl.CERT_NONE,
        )
        return configuration, secrets
