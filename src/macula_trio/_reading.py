"""Files that somebody names, read whole: bounded in size, and never waited for without end."""

from __future__ import annotations

import errno
import os
import select
import stat
from typing import Final

PIPE_PATIENCE_S: Final = 5.0  # between two pieces out of a pipe; whoever writes a file there has it ready
_CHUNK_BYTES: Final = 65_536


def read_bounded(path: str | os.PathLike[str], *, bytes_max: int) -> bytes:
    """Read a file, or what a pipe brings until its other end is closed, such as the shell's ``<(command)``.

    Blocks, briefly.  A larger file is refused by its size, and not read.

    Args:
      path: the file.
      bytes_max: how large it may be.

    Raises:
      OSError: it is missing, cannot be read, is too large, no file, or a pipe into which nobody writes; ``strerror``
        is the reason, without the path.
    """
    # O_NONBLOCK, because opening a named pipe that nobody writes to would wait for somebody who does.
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as exc:  # a NUL in it
        raise OSError(errno.EINVAL, "not a path") from exc
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        is_pipe = stat.S_ISFIFO(status.st_mode)
        if not (is_pipe or stat.S_ISREG(status.st_mode)):
            raise OSError(errno.EINVAL, "not a file")  # devices have no end
        if not is_pipe and status.st_size > bytes_max:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes are too many, limit {bytes_max}")
        return _read(handle, bytes_max, is_pipe=is_pipe)
    finally:
        os.close(handle)


def _read(handle: int, bytes_max: int, *, is_pipe: bool) -> bytes:
    data = bytearray()
    while True:
        if is_pipe and not select.select([handle], [], [], PIPE_PATIENCE_S)[0]:
            raise OSError(errno.ETIMEDOUT, f"a pipe into which nothing was written for {PIPE_PATIENCE_S:g} s")
        chunk = os.read(handle, _CHUNK_BYTES)
        if not chunk:
            return bytes(data)
        data += chunk
        if len(data) > bytes_max:  # a pipe, or a file that grows while it is read
            raise OSError(errno.EFBIG, f"more than {bytes_max} bytes")
