"""Replies that say what went wrong, or carry what a handler returned.

Sans-IO.  Whatever they quote is cut to a size that always fits into a frame.
"""

from __future__ import annotations

from macula_trio._rpc.errors_map import was_not_started
from macula_trio._util import clip
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK
from macula_trio.errors import Reject


def error_reply(call_id: bytes, code: str, message: str) -> wire.Reply:
    return wire.Reply(call_id=call_id, error=wire.CallError(code=clip(code), message=clip(message)))


def rejection_reply(call_id: bytes, rejection: Reject) -> wire.Reply:
    """A handler's own error; a code by which we mean something ourselves is not the handler's to use."""
    if was_not_started(rejection.code) or rejection.code == "timeout":
        return error_reply(call_id, "handler_error", str(rejection))
    return error_reply(call_id, str(rejection.code), str(rejection.message))


def reply_size(reply: wire.Reply | None) -> int:
    return len(reply.result) if reply is not None and reply.result is not None else 0


def answer_type(content_type: str | None) -> str:
    return CONTENT_MSGPACK if content_type == CONTENT_MSGPACK else CONTENT_JSON
