"""What becomes of a datagram that belongs to no connection: a connection, an answer without one, or nothing.

Only a full-size Initial may make a connection, and most of what comes here may have forged its source.  So nothing is
remembered of it before `Admission` lets it in, and what is answered is no longer than what was asked.  Whatever aioquic
raises on such bytes is contained by the caller, `macula_trio._net.quic`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # public, but re-exported without saying so
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from macula_trio._net.admission import Admission, Verdict
from macula_trio._net.connection import Connection
from macula_trio._net.counters import EndpointCounters
from macula_trio._net.tls import CONNECTION_ID_BYTES
from macula_trio._util import Path, path_address

SUPPORTED_VERSIONS: Final = tuple(QuicConfiguration().supported_versions)
FIRST_CONNECTION_ID_BYTES_MIN: Final = 8  # of what a client invents for us (RFC 9000, section 7.2)
RETRY_CONNECTION_ID_BYTES: Final = 8

_LONG_HEADER: Final = 0x80  # RFC 9000, section 17.2: form bit; then a version of 4 bytes, then the id's length
_LONG_HEADER_BYTES_MIN: Final = 5


@attrs.frozen
class Newcomer:
    """Somebody who may open a connection.

    Attributes:
      cid: what its datagrams are addressed to, until it learns an id of ours.
      original_cid: what its very first one was addressed to.
      retry_cid: what a Retry has told it instead; None when there was none.
      must_go: the connection that has to make room for it.
    """

    cid: bytes
    original_cid: bytes
    retry_cid: bytes | None = None
    must_go: Connection | None = None


class Greeter:
    """Decides about strangers.

    Args:
      admission: who may dial us.
      counters: those of the socket.
      random_bytes: for connection ids of Retry packets.
    """

    def __init__(
        self, admission: Admission[Connection], counters: EndpointCounters, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._admission = admission
        self._counters = counters
        self._random_bytes = random_bytes
        self._retry = QuicRetryTokenHandler()

    def greet(self, data: bytes, source: Path, now: float) -> Newcomer | bytes | None:
        """Decide about a datagram; bytes are an answer to its source."""
        header = _initial_header(data)
        if header is None or header.version is None:
            self._counters.datagrams_unroutable += 1
            return None
        if header.version not in SUPPORTED_VERSIONS:
            return encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=list(SUPPORTED_VERSIONS),
            )
        verdict = self._admission.judge(path_address(source), has_token=bool(header.token))
        if verdict is Verdict.ACCEPT:
            return Newcomer(header.destination_cid, header.destination_cid)
        if verdict is Verdict.REFUSE:
            self._counters.connections_refused += 1
            return None
        if not header.token:
            return self._demand_retry(header, source, now)
        return self._admit(header, source, now)

    def _demand_retry(self, header: QuicHeader, source: Path, now: float) -> bytes:
        """Have the newcomer show that it receives at its address (RFC 9000, section 8.1.2)."""
        assert header.version is not None
        cid = self._random_bytes(RETRY_CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=now,
        )
        self._counters.retries_demanded += 1
        return encode_quic_retry(
            version=header.version,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _admit(self, header: QuicHeader, source: Path, now: float) -> Newcomer | None:
        """Let in who brings the token of a Retry, if there is room."""
        try:
            original_cid = self._retry.validate_token(
                address=source, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            self._counters.connections_refused += 1
            return None
        may_come, must_go = self._admission.make_room(path_address(source))
        if not may_come:
            self._counters.connections_refused += 1
            return None
        return Newcomer(header.destination_cid, original_cid, header.destination_cid, must_go)


def destination_cid(data: bytes) -> bytes:
    """The destination connection id of a datagram's first packet (RFC 9000, section 17); b"" when cut off."""
    if not data:
        return b""
    if data[0] & _LONG_HEADER:
        return data[6 : 6 + data[5]] if len(data) > _LONG_HEADER_BYTES_MIN else b""
    return data[1 : 1 + CONNECTION_ID_BYTES]


def _initial_header(data: bytes) -> QuicHeader | None:
    """The header of a datagram that may begin a connection, or that of one in a version that we do not speak."""
    # Before anything is parsed: whoever floods us with garbage must not find that dear.
    if len(data) < SMALLEST_MAX_DATAGRAM_SIZE or not data[0] & _LONG_HEADER:
        return None
    try:
        header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
    except ValueError:
        return None
    if len(header.destination_cid) < FIRST_CONNECTION_ID_BYTES_MIN:
        return None
    if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
        return None
    if header.version in SUPPORTED_VERSIONS and header.packet_type != QuicPacketType.INITIAL:
        return None
    return header
