"""What a payload may consist of: the limits, and the checks on bytes and on values that hold them.

Pure Python on purpose: `macula_trio._wire.codec` is the one that knows MessagePack's library, and this is
what it must ask before it trusts it.  DESIGN section 4.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from macula_trio._wire.frame import Buffer
from macula_trio.errors import ErrorCode, LocalProtocolError

DEPTH_MAX: Final = 64  # maps and lists inside each other; what we write has 4, and recursion stays far from its end
ELEMENTS_MAX: Final = 131_072  # entries of maps and items of lists in one payload: bounds memory per frame to a few MiB
INT_MIN: Final = -(2**63)  # what MessagePack can carry
INT_MAX: Final = 2**64 - 1

_AS_IT_IS: Final = frozenset({bytes, int, bool, type(None)})  # packed unchanged
_UNPACKED: Final = frozenset({bytes, str, int, bool, type(None), dict, list})  # what a payload may consist of

# First bytes of maps and lists: fixmap, fixarray, array16, array32, map16, map32.
_CONTAINERS: Final = frozenset({*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})
_NO_CONTAINERS: Final = bytes(byte for byte in range(256) if byte not in _CONTAINERS)
_MAPS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})

# Bytes of length behind these first bytes: bin and str, then array and map.
_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}

# Whole size of everything whose first byte tells it; 0 for the others and for ext types.
_SIZES: Final = bytearray(256)
_SIZES[0x00:0x80] = b"\1" * 0x80  # positive integers
_SIZES[0xA0:0xC0] = bytes(range(1, 0x21))  # short str
_SIZES[0xC0:0xC4] = b"\1" * 4  # nil, never used, false, true
_SIZES[0xCA:0xD4] = bytes((5, 9, 2, 3, 5, 9, 2, 3, 5, 9))  # float32 and 64, uint8 to 64, int8 to 64
_SIZES[0xE0:0x100] = b"\1" * 0x20  # negative integers


def check_shape(data: Buffer) -> None:
    """Count nesting and elements on the bytes, before anything is built from them.

    Sizes that point behind the end are left to `msgpack`, which has then nothing big to build.

    Raises:
      ValueError: too deep, too many, or an ext type.
    """
    # Most frames cannot break a limit, which their size and one pass in C tell; only the others are walked.
    if len(data) <= ELEMENTS_MAX and len(data.translate(None, _NO_CONTAINERS)) <= DEPTH_MAX:
        return
    position, elements = 0, 0
    left, around = 1, list[int]()  # values still to come: in the innermost open container, in those around it
    while position < len(data):
        while not left:
            if not around:
                return  # bytes behind the one value
            left = around.pop()
        left -= 1
        first = data[position]
        size = _SIZES[first]
        if size:
            position += size
            continue
        width = _LENGTH_BYTES.get(first, 0)
        length = int.from_bytes(data[position + 1 : position + 1 + width], "big") if width else first & 0x0F
        position += 1 + width
        if first not in _CONTAINERS:
            if not width:
                raise ValueError("ext types are refused")
            position += length
            continue
        elements += length
        around.append(left)
        left = 2 * length if first in _MAPS else length
        if len(around) > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
        if elements > ELEMENTS_MAX:
            raise ValueError(f"more than {ELEMENTS_MAX} elements")


def check_unpacked(values: Collection[object]) -> None:
    """Judge the direct content of an unpacked map or list: no ext types, no floats that are not finite.

    A timestamp is an ext type that never reaches msgpack's ``ext_hook``, so results are looked at instead.

    Raises:
      ValueError: there is one.
    """
    if _UNPACKED.issuperset(map(type, values)):
        return
    for value in values:
        if type(value) is float:
            if not math.isfinite(value):
                raise ValueError(f"{value} is not finite")
        elif type(value) not in _UNPACKED:
            raise ValueError("ext types are refused")


def check_application_value(value: object, *, binary: bool) -> None:
    """Judge what an application sends or gets; the codecs take the same values, but for bytes.

    Args:
      value: anything.
      binary: whether bytes may be inside.

    Raises:
      ValueError: something inside is of another type, too big, not finite, too deep or too much.
    """
    elements = 0
    waiting: list[tuple[Iterable[object], int]] = [((value,), 1)]  # with the depth of a container found there
    while waiting:
        items, depth = waiting.pop()
        for item in items:
            if isinstance(item, (dict, list, tuple)):
                elements += len(item)
                if depth > DEPTH_MAX:
                    raise ValueError(f"nested deeper than {DEPTH_MAX}")
                if elements > ELEMENTS_MAX:
                    raise ValueError(f"more than {ELEMENTS_MAX} elements")
                if isinstance(item, dict):
                    _check_keys(item)
                    waiting.append((item.values(), depth + 1))
                else:
                    waiting.append((item, depth + 1))
            elif item is not None and not (binary and isinstance(item, bytes)):
                _check_scalar(item)


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"keys must be str, not {type(key).__name__}")  # json would turn 1 into "1"
        _check_scalar(key)


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise ValueError(f"an integer beyond {INT_MIN} and {INT_MAX}")
    elif not isinstance(value, float):
        raise ValueError(f"{type(value).__name__} cannot travel")
    elif not math.isfinite(value):
        raise ValueError(f"{value} is not finite")


def cannot_encode(reason: str) -> LocalProtocolError:
    """The error for a value that we were asked to send and cannot."""
    return LocalProtocolError(reason, code=ErrorCode.MALFORMED_PAYLOAD)


def canonical(value: Mapping[Any, Any], *, keys: Mapping[str, bytes]) -> dict[bytes, Any]:
    """Turn a map into what msgpack writes in one way only: str as bytes, keys sorted, at every level.

    Args:
      value: the map.
      keys: common keys as they travel; saves encoding them.

    Raises:
      LocalProtocolError: something inside has no place on the wire.
      UnicodeEncodeError: a text with a lone surrogate.
    """
    return _Canonical(keys).map(value, 1)


@attrs.define(eq=False)
class _Canonical:
    _keys: Mapping[str, bytes]
    _elements: int = 0

    def map(self, value: Mapping[Any, Any], depth: int) -> dict[bytes, Any]:
        self._count(value, depth)
        try:
            ordered = sorted(value)  # by code point, which is the order of their UTF-8 bytes
        except TypeError:
            raise cannot_encode("keys must be str") from None
        result, keys = {}, self._keys
        for key in ordered:
            item = value[key]
            if type(item) is str:
                item = item.encode()
            elif type(item) not in _AS_IT_IS:
                item = self._value(item, depth)
            result[keys.get(key) or self._key(key)] = item
        return result

    def _key(self, key: object) -> bytes:
        if isinstance(key, str):
            return key.encode()
        raise cannot_encode(f"keys must be str, not {type(key).__name__}")

    def _value(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, Mapping):
            return self.map(value, depth + 1)
        if isinstance(value, (list, tuple)):
            self._count(value, depth + 1)
            return [item if type(item) in _AS_IT_IS else self._value(item, depth + 1) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise cannot_encode(f"{value} is not finite")
        if isinstance(value, (bytes, int, float)):
            return value
        raise cannot_encode(f"{type(value).__name__} is no type of the wire")

    def _count(self, container: Collection[Any], depth: int) -> None:
        self._elements += len(container)
        if depth > DEPTH_MAX:
            raise cannot_encode(f"nested deeper than {DEPTH_MAX}")
        if self._elements > ELEMENTS_MAX:
            raise cannot_encode(f"more than {ELEMENTS_MAX} elements")
