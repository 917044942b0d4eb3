"""How one field of a message is checked, read and written.  Kinds stand in the annotations of the classes.

A `Kind` rides in ``Annotated``, so type checkers see plain ``str`` and ``bytes`` while `schema_of` finds
the rules.  Reading is liberal about what v0.8 does (a text may be an Erlang string, "none" may be spelled
``undefined``) and strict about sizes and types; writing is strict.  Every refusal is a `ValueError` whose
text says what the field must be; `macula_trio._wire.messages` adds the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias, get_args, get_type_hints

import attrs

from macula_trio._ids import ID_BYTES

SHORT_ID_BYTES: Final = 16  # ids of calls, messages, runs of a node and questions (DESIGN section 4)
COUNT_MAX: Final = 2**63 - 1  # what every language and SQLite hold in a signed integer
QOS_MAX: Final = 2  # v0.8 announces 0 to 2
_INT_MIN: Final = -(2**63)  # MessagePack's range; v0.8 sends Erlang's monotonic times, which are negative
_INT_MAX: Final = 2**64 - 1
_NONE_V08: Final = b"undefined"  # the atom, as v0.8 writes an endpoint that it does not have


@attrs.frozen(kw_only=True)
class Kind:
    """The rule of one field.

    Attributes:
      read: what was received (never None) to what the class holds; None means "not there".
      write: what the class holds (never None) to what `encode_frame` takes.
      is_list: a list on the wire, so that Erlang's ``A0`` means the empty one.
      sparse: left out when it is empty, 0 or False.

    Both functions raise `ValueError`.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    is_list: bool = False
    sparse: bool = False


def _read_text(value: object) -> str:
    if type(value) is bytes:
        return str(value, "utf-8")
    if type(value) is str:  # what an Erlang string looks like
        return value
    raise ValueError("must be a text")


def _write_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("must be a str")


def _read_endpoint(value: object) -> str | None:
    return None if value == _NONE_V08 else _read_text(value)


def _read_hint(value: object) -> str | None:
    """A text for whoever can use it: what is none is not there, and refuses nothing."""
    try:
        return _read_text(value)
    except ValueError:
        return None


def _read_blob(value: object) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is str:  # another peer's way to send a text
        return value.encode()
    raise ValueError("must be bytes")


def _write_blob(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("must be bytes")


def _check_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def check_map(value: object) -> dict[str, Any]:
    """Take a map and nothing else."""
    if isinstance(value, dict):
        return value
    raise ValueError("must be a map")


def _read_texts(value: object) -> dict[str, str]:
    return {key: _read_text(item) for key, item in check_map(value).items()}


def _write_texts(value: object) -> dict[str, str]:
    return {_write_text(key): _write_text(item) for key, item in check_map(value).items()}


def _same(check: Callable[[Any], Any]) -> Kind:
    """A kind that looks the same on both sides."""
    return Kind(read=check, write=check)


def _bytes_of(size: int) -> Kind:
    def check(value: object) -> bytes:
        if isinstance(value, bytes) and len(value) == size:
            return value
        raise ValueError(f"must be {size} bytes")

    return _same(check)


def _integer(low: int, high: int) -> Kind:
    def check(value: object) -> int:
        # bool is an int to Python and something else on the wire.
        if isinstance(value, int) and low <= value <= high and not isinstance(value, bool):
            return value
        raise ValueError(f"must be an integer from {low} to {high}")

    return _same(check)


def one_of(*allowed: str) -> Kind:
    """One of a few words."""

    def choose(text: str) -> str:
        if text in allowed:
            return text
        raise ValueError(f"must be one of {', '.join(allowed)}")

    return Kind(read=lambda value: choose(_read_text(value)), write=lambda value: choose(_write_text(value)))


def list_of(item: Kind, *, single: bool = False, sparse: bool = False) -> Kind:
    """A list on the wire, a tuple in Python; ``single``: v0.8 may send the one item without its list."""

    def read(value: object) -> tuple[Any, ...]:
        if isinstance(value, list):
            return tuple(map(item.read, value))
        if single:
            return (item.read(value),)
        raise ValueError("must be a list")

    def write(value: object) -> list[Any]:
        if isinstance(value, (tuple, list)):
            return list(map(item.write, value))
        raise ValueError("must be a tuple")

    return Kind(read=read, write=write, is_list=True, sparse=sparse)


def struct(cls: type[Any]) -> Kind:
    """A map with the fields of an attrs class."""
    schema = schema_of(cls)

    def write(value: object) -> dict[str, Any]:
        if isinstance(value, cls):
            return schema.write(value)
        raise ValueError(f"must be a {cls.__name__}")

    return Kind(read=lambda value: schema.read(check_map(value)), write=write)


MAP: Final = _same(check_map)

NodeKey: TypeAlias = Annotated[bytes, _bytes_of(ID_BYTES)]
ShortId: TypeAlias = Annotated[bytes, _bytes_of(SHORT_ID_BYTES)]
Blob: TypeAlias = Annotated[bytes, Kind(read=_read_blob, write=_write_blob)]
Blobs: TypeAlias = Annotated[tuple[bytes, ...], list_of(Kind(read=_read_blob, write=_write_blob))]
Text: TypeAlias = Annotated[str, Kind(read=_read_text, write=_write_text)]
Texts: TypeAlias = Annotated[tuple[str, ...], list_of(Kind(read=_read_text, write=_write_text))]
SparseTexts: TypeAlias = Annotated[tuple[str, ...], list_of(Kind(read=_read_text, write=_write_text), sparse=True)]
TextMap: TypeAlias = Annotated[dict[str, str], Kind(read=_read_texts, write=_write_texts)]
Endpoint: TypeAlias = Annotated[str, Kind(read=_read_endpoint, write=_write_text)]
Hint: TypeAlias = Annotated[str, Kind(read=_read_hint, write=_write_text)]
Number: TypeAlias = Annotated[int, _integer(_INT_MIN, _INT_MAX)]
Count: TypeAlias = Annotated[int, _integer(0, COUNT_MAX)]
Qos: TypeAlias = Annotated[int, _integer(0, QOS_MAX)]
Flag: TypeAlias = Annotated[bool, _same(_check_flag)]
SparseFlag: TypeAlias = Annotated[bool, Kind(read=_check_flag, write=_check_flag, sparse=True)]
Map: TypeAlias = Annotated[dict[str, Any], MAP]
Maps: TypeAlias = Annotated[tuple[dict[str, Any], ...], list_of(MAP, single=True, sparse=True)]


@attrs.frozen(kw_only=True)
class Schema:
    """The fields of one class, worked out once: `attrs.asdict` would cost more than the codec itself.

    Attributes:
      cls: an attrs class whose annotations carry kinds.
      lists: the keys that hold lists.
      required: the names of the fields that must be there.
      readers: per key: name in Python, whether it must be there, `Kind.read`.
      writers: per field, sorted by key: key, name in Python, whether it must be there, `Kind.sparse`, `Kind.write`.
    """

    cls: type[Any]
    lists: tuple[str, ...]
    required: frozenset[str]
    readers: Mapping[str, tuple[str, bool, Callable[[Any], Any]]]
    writers: tuple[tuple[str, str, bool, bool, Callable[[Any], Any]], ...]

    def read(self, body: Mapping[str, Any]) -> Any:
        """Make an instance; keys that the class does not have are ignored.

        Raises:
          ValueError: ``"field: what it must be"``.
        """
        values: dict[str, Any] = {}
        readers, missing = self.readers, len(self.required)
        for key, value in body.items():
            if value is not None and key in readers:
                name, required, read = readers[key]
                missing -= required
                try:
                    values[name] = read(value)
                except ValueError as exc:
                    raise ValueError(f"{key}: {exc}") from exc
        if missing:
            raise ValueError(f"{min(self.required - values.keys())}: is missing")
        return self.cls(**values)

    def write(self, value: Any) -> dict[str, Any]:
        """Make the map, without the fields that are None.

        Raises:
          ValueError: ``"field: what it must be"``.
        """
        body: dict[str, Any] = {}
        for key, name, required, sparse, write in self.writers:
            item = getattr(value, name)
            if (item is None and not required) or (sparse and not item):
                continue
            try:
                body[key] = write(item)
            except ValueError as exc:
                raise ValueError(f"{key}: {exc}") from exc
        return body


def schema_of(cls: type[Any]) -> Schema:
    """Work out the schema of an attrs class; the underscore behind a Python keyword is not on the wire."""
    hints = get_type_hints(cls, include_extras=True)
    fields = sorted(
        (field.name.rstrip("_"), field.name, field.default is attrs.NOTHING, _kind_of(hints[field.name]))
        for field in attrs.fields(cls)
    )
    return Schema(
        cls=cls,
        lists=tuple(key for key, _name, _required, kind in fields if kind.is_list),
        required=frozenset(name for _key, name, required, _kind in fields if required),
        readers={key: (name, required, kind.read) for key, name, required, kind in fields},
        writers=tuple((key, name, required, kind.sparse, kind.write) for key, name, required, kind in fields),
    )


def _kind_of(hint: Any) -> Kind:
    """Find the kind in ``Annotated[X, kind]`` or ``Annotated[X, kind] | None``."""
    (kind,) = (data for part in (hint, *get_args(hint)) for data in getattr(part, "__metadata__", ()))
    assert isinstance(kind, Kind)
    return kind
