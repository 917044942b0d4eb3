"""What the library logs, for those who run a command: one line each on stderr, and nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from macula_trio._cli.output import note, one_line

_LIBRARY: Final = "macula_trio"


class _Lines(logging.Handler):
    """Writes warnings as the other warnings of the command line, without tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == _LIBRARY:
            return  # of the node as a whole: told by its events, in the words of the command line
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        note(f"warning: {one_line(text)}")


@contextmanager
def logs_in_lines() -> Generator[None, None, None]:
    """Speak for the library's loggers within the block; QUIC's own says nothing that is not told otherwise."""
    handlers = {_LIBRARY: _Lines(), "quic": logging.NullHandler()}
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)
