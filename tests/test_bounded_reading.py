"""Files that somebody names are read whole or refused, whatever they are."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from macula_trio import _reading
from macula_trio._reading import read_bounded

LIMIT: Final = 100_000

if not hasattr(os, "mkfifo"):
    pytest.skip("there are no named pipes here", allow_module_level=True)


def reason(path: str | Path) -> str | None:
    """Why it is refused."""
    with pytest.raises(OSError) as error:  # noqa: PT011 -- every test looks at the whole text
        read_bounded(path, bytes_max=LIMIT)
    return error.value.strerror


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_file_within_the_limit_is_read(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_bounded(path, bytes_max=LIMIT) == b"x" * size


def test_a_file_of_a_gigabyte_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(_reading, "_read", None)  # not a byte
    assert reason(path) == f"{1 << 30} bytes are too many, limit {LIMIT}"


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (LIMIT + 1))
    small = os.stat_result([stat.S_IFREG, *[0] * 5, 1, *[0] * 3])
    monkeypatch.setattr(os, "fstat", lambda _: small)
    assert reason(path) == f"more than {LIMIT} bytes"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_a_device_is_no_file(device: str) -> None:
    if not Path(device).exists():
        pytest.skip(f"there is no {device} here")
    assert reason(device) == "not a file"


def test_a_directory_a_missing_file_and_what_is_no_path_are_refused(tmp_path: Path) -> None:
    assert reason(tmp_path) == "Is a directory"
    assert reason(tmp_path / "missing") == "No such file or directory"
    assert reason("a\0b") == "not a path"


def test_a_named_pipe_that_nobody_writes_to_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reading, "PIPE_PATIENCE_S", 0)
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "a pipe into which nothing was written for 0 s"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/fd")
def test_what_a_command_writes_into_a_pipe_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    content = b"y" * LIMIT
    writer = threading.Thread(target=lambda: (os.write(writing, content[:1]), _write(writing, content[1:])))
    writer.start()
    try:
        assert read_bounded(f"/dev/fd/{reading}", bytes_max=LIMIT) == content
    finally:
        os.close(reading)
        writer.join()


def _write(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def test_a_pipe_that_brings_too_much_or_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reading, "PIPE_PATIENCE_S", 0)
    reading, writing = os.pipe()
    try:
        assert reason(f"/dev/fd/{reading}") == "a pipe into which nothing was written for 0 s"
        os.write(writing, b"x" * 100)
        with pytest.raises(OSError, match="more than 99 bytes"):
            read_bounded(f"/dev/fd/{reading}", bytes_max=99)
    finally:
        os.close(reading)
        os.close(writing)
