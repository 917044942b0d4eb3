"""The original's vectors, in the shape that our decoder gives: str keys, bytes, lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

VECTORS: Final = Path(__file__).parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def untag(term: Any) -> Any:
    """A tagged term of the vectors as Python."""
    if isinstance(term, list):
        return [untag(item) for item in term]
    if not isinstance(term, dict):
        return term
    ((tag, value),) = term.items()
    if tag == "$bin":
        return bytes.fromhex(value)
    assert tag == "$map"
    return {untag(key).decode(): untag(item) for key, item in value}


def as_erlang(value: Any) -> Any:
    """A decoded value as the original sees it: a MessagePack str is a list of code points."""
    if isinstance(value, str):
        return list(map(ord, value))
    if isinstance(value, list):
        return [as_erlang(item) for item in value]
    if isinstance(value, dict):
        return {key: as_erlang(item) for key, item in value.items()}
    return value


FRAMES: Final = load("frames.json")["vectors"]
FRAME_IDS: Final = [f"{vector['type']}-{vector['name']}" for vector in FRAMES]
VALID_FRAMES: Final = [bytes.fromhex(vector["frame_hex"]) for vector in FRAMES]
