"""Values of settings as the environment, flags and the file write them, read; what is none is a `ValueError`.

Pure: a file that a value names is looked at by whoever uses it.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from macula_trio import NodeId, Trust
from macula_trio._util import PORT_MAX, parse_endpoint, shown

BASE_HERE: Final = PurePath()  # what relative paths start from: the directory that the command runs in
TRUST_FORMS: Final = "open, realm:CA.pem, only:ID,... or only:@FILE, pinned:SHA256,... or pinned:@FILE, unverified"
TIMEOUT_MAX_S: Final = 300.0  # NodeConfig.call_timeout_max_s: a handler gets no more
NAME_CHARS_MAX: Final = 255  # a host name fits
PATH_CHARS_MAX: Final = 4096  # PATH_MAX of Linux; other systems take less
_BOOLS: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def read_policy(text: str, base: PurePath = BASE_HERE) -> Trust:
    """Read a trust policy: its name, and behind a colon the file or list that it wants.

    Args:
      text: one of `TRUST_FORMS`.
      base: what a relative path starts from.

    Raises:
      ValueError: no such policy, or malformed.
    """
    kind, colon, rest = text.partition(":")
    if colon and not rest:
        raise ValueError(f"{shown(text)}: behind the colon there is nothing")
    if kind == "realm" and rest:
        return Trust.realm(base / rest)
    if kind == "only" and rest:
        return Trust.only(base / rest[1:] if rest.startswith("@") else map(NodeId.from_hex, rest.split(",")))
    if kind == "pinned" and rest:
        return Trust.pinned(base / rest[1:] if rest.startswith("@") else rest.split(","))
    if text == "open":
        return Trust.open()
    if text == "unverified":
        return Trust.unverified()
    raise ValueError(f"{shown(text)} is not one of {TRUST_FORMS}")


def read_seconds(value: object) -> float:
    """Read the patience of a one-shot command.

    Raises:
      ValueError: no number, or out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= TIMEOUT_MAX_S:
        raise ValueError(f"{shown(value)} is not a number of seconds above 0, at most {TIMEOUT_MAX_S:g}")
    return float(value)


def read_number(text: str, _base: PurePath = BASE_HERE) -> object:
    """A number, or what was written instead, for whoever judges it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # also an integer of thousands of digits
            continue
    return text


def read_bool(text: str, _base: PurePath) -> object:
    return _BOOLS.get(text.lower(), text)


def as_it_is(value: object, _base: PurePath) -> object:
    return value


def read_list(text: str, _base: PurePath) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def read_path(value: object, base: PurePath) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not the path of a file")
    if not value:
        raise ValueError("an empty path; name a file, or leave it out")
    if len(value) > PATH_CHARS_MAX:
        raise ValueError(f"a path of {len(value)} characters is too long, the limit is {PATH_CHARS_MAX}")
    return str(base / value)


def read_trust_value(value: object, base: PurePath) -> Trust:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not one of {TRUST_FORMS}")
    return read_policy(value, base)


def read_name(value: object, _base: PurePath = BASE_HERE) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a text")
    if not (value.isprintable() and value.strip() and len(value) <= NAME_CHARS_MAX):
        raise ValueError(f"{shown(value)} is not a name of printable characters, at most {NAME_CHARS_MAX}")
    return value


def read_publishers(value: object, _base: PurePath) -> object:
    """A list of ids; what is none of these is judged by `NodeConfig`."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list of node ids, 64 hexadecimal digits each")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"{shown(item)} is not a node id of 64 hexadecimal digits")
    return [NodeId.from_hex(item) for item in value]


def read_http(value: object, _base: PurePath) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not HOST:PORT, such as 127.0.0.1:8080")
    parse_endpoint(value, port_min=0)
    return value


def read_old_port(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(PORT_MAX)) and int(text) <= PORT_MAX):
        raise ValueError(f"{shown(text)} is not a port, a number from 0 to {PORT_MAX}")
    return f"0.0.0.0:{int(text)}"


def same_port(own: str, old: str) -> bool:
    return parse_endpoint(own, port_min=0)[1] == parse_endpoint(old, port_min=0)[1]


def brief(value: object) -> str:
    return shown(list(value) if isinstance(value, tuple) else value)


def plain_text(value: object) -> str:
    """Write a value for people, as the environment would say it."""
    if isinstance(value, Trust):
        return trust_text(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(item.hex() if isinstance(item, NodeId) else str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def trust_text(trust: Trust) -> str:
    """Write a policy as `read_policy` reads it."""
    if trust.kind == "realm":
        return f"realm:{trust.path}"
    if trust.path is not None:
        return f"{trust.kind}:@{trust.path}"
    listed = sorted(item.hex() for item in (*trust.node_ids, *trust.fingerprints))
    return f"{trust.kind}:{','.join(listed)}" if listed else trust.kind
