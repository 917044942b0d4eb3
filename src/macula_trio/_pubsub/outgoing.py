"""Messages on their way out, in the form that whoever gets them can read (DESIGN sections 4 and 10).

Sans-IO.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar, Final, TypeAlias

import attrs

from macula_trio._ids import ID_BYTES, NodeId
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_OCTETS, decode_payload, encode_payload

NOBODY: Final = NodeId(bytes(ID_BYTES))
"""Whom an envelope names as the publisher that has proven nothing: no key has this id, so nobody is taken for it."""

Sameness: TypeAlias = tuple[str, bytes, bytes]


def sameness_of(message: wire.Publish) -> Sameness:
    """What two copies of one message have in common, and two messages do not.

    The id alone is not enough: clients of v0.8 begin to count anew whenever they start.
    """
    return message.topic, message.message_id, hashlib.sha256(message.payload).digest()


def in_json(message: wire.Publish) -> wire.Publish:
    """A message for whoever reads JSON only.

    Raises:
      RemoteProtocolError: its payload is malformed.
      LocalProtocolError: JSON does not carry it.
    """
    value = decode_payload(message.payload, message.content_type)
    if message.content_type in {None, CONTENT_JSON}:
        return message
    return attrs.evolve(message, payload=encode_payload(value, CONTENT_JSON), content_type=CONTENT_JSON)


def as_in_v08(message: wire.Publish) -> wire.Publish:
    """The same with nothing that v0.8 does not know.

    Raises:
      RemoteProtocolError, LocalProtocolError: as `in_json`.
    """
    return attrs.evolve(in_json(message), content_type=None, headers=None, expires_ms=None)


@attrs.define(eq=False)
class Outgoing:
    """One message of ours on its way out; encoded at most once per content type.

    Attributes:
      topic: of the message.
      payload: plain JSON-like values, or bytes.
      message_id: 16 bytes.
      headers: small texts.
      source: whom envelopes name as its publisher; None for ourselves.
    """

    may_wait: ClassVar[bool] = True  # for subscriptions that block: whoever publishes it waits, too

    topic: str
    payload: object
    message_id: bytes
    headers: dict[str, str] | None
    source: NodeId | None = attrs.field(default=None, init=False)
    _encoded: dict[str, wire.Publish] = attrs.field(factory=dict, init=False)

    def encoded(self, content_type: str) -> wire.Publish:
        """The message for a node that reads ``content_type``.

        Raises:
          LocalProtocolError: it cannot be encoded so.
        """
        if isinstance(self.payload, bytes):
            content_type = CONTENT_OCTETS
        if content_type not in self._encoded:
            self._encoded[content_type] = wire.Publish(
                topic=self.topic,
                payload=encode_payload(self.payload, content_type),
                message_id=self.message_id,
                content_type=content_type,
                headers=self.headers,
            )
        return self._encoded[content_type]


@attrs.frozen
class Passing:
    """A client's message on its way through us; goes on as it came, or in JSON for who reads nothing else.

    Attributes:
      message: as the client sent it.
      source: the proven id of the client, or `NOBODY`.
    """

    may_wait: ClassVar[bool] = False  # nobody can slow the client down

    message: wire.Publish
    source: NodeId

    @property
    def topic(self) -> str:
        """Of the message."""
        return self.message.topic

    @property
    def message_id(self) -> bytes:
        """16 bytes."""
        return self.message.message_id

    def encoded(self, content_type: str) -> wire.Publish:
        """The message for a node that reads ``content_type``.

        Raises:
          RemoteProtocolError, LocalProtocolError: as `in_json`.
        """
        return in_json(self.message) if content_type == CONTENT_JSON else self.message
