"""What a replica keeps over a restart: the values that it holds, as the STORE frames by which they came.

A value is signed by its owner, so what comes back from a disk is checked like what comes from a peer.  What nobody has
signed is not written down: its time would begin anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from macula_trio._dht.storage import Slot, ValueStore, may_pass_on, slot_of
from macula_trio._identity.record import Record, read_trusted
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import ANY_KIND
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_frame, decode_message, encode_message
from macula_trio._wire.frame import Frame
from macula_trio.abc import Storage
from macula_trio.errors import RemoteProtocolError, TrustError

logger = logging.getLogger("macula_trio.dht")

TABLE: Final = "values"


def keeper(storage: Storage) -> Callable[[bytes, Slot, Record | None], None]:
    """What a `ValueStore` tells of its changes, written down."""
    return partial(_keep, storage)


def _keep(storage: Storage, key: bytes, slot: Slot, record: Record | None) -> None:
    owner, kind = slot
    if kind == ANY_KIND:
        return
    frame = None if record is None else encode_message(wire.Store(key=key, value=record.to_value()))
    storage.put(TABLE, key + owner + kind.encode(), frame)


def reload(store: ValueStore[Record], storage: Storage, *, realm: str, judge: TrustJudge, now_ms: int) -> None:
    """Hold what was kept again; what has expired, or has no room any more, is dropped from the storage.

    So is what may not be passed on: nobody remembers since when we hold it, and with a new start of its time at every
    restart it would never end.
    """
    for record in kept(storage, realm=realm, judge=judge, now_ms=now_ms):
        if not (may_pass_on(record, now_ms) and store.put(record, now_ms).stored):
            _keep(storage, record.key, slot_of(record), None)


def kept(storage: Storage, *, realm: str, judge: TrustJudge, now_ms: int) -> list[Record]:
    """The values that a storage holds; what cannot be read or trusted is dropped from it, and told in the log."""
    records: list[Record] = []
    for name, frame in storage.items(TABLE):
        try:
            message = _read(frame)
            records.append(read_trusted(message.value, realm=realm, key=message.key, judge=judge, now_ms=now_ms))
        except (RemoteProtocolError, TrustError) as exc:
            logger.warning("dropped a stored value: %s", exc)
            storage.put(TABLE, name, None)
    return records


def _read(data: bytes) -> wire.Store:
    message = decode_message(Frame(*decode_frame(data)))
    if not isinstance(message, wire.Store):
        raise TrustError("not a STORE frame")
    return message
