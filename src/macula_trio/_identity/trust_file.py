"""The file that a trust policy names: ids, fingerprints, or the certificates of a realm's authority."""

from __future__ import annotations

from typing import Final

from macula_trio._reading import read_bounded
from macula_trio._trust import Trust
from macula_trio.errors import TrustError

BYTES_MAX: Final = 16 * 1024 * 1024  # a full list with comments; more is another kind of file


def load_trust(trust: Trust) -> Trust:
    """The policy with what its file contains now; as it is when it names none.

    Blocks on the disk, briefly.

    Raises:
      TrustError: missing, unreadable or malformed; one line with the path.
    """
    if trust.path is None:
        return trust
    try:
        data = read_bounded(trust.path, bytes_max=BYTES_MAX)
    except OSError as exc:
        raise TrustError(f"trust file {trust.path}: cannot be read: {exc.strerror}") from exc
    try:
        return trust.filled(data)
    except ValueError as exc:
        raise TrustError(f"trust file {trust.path}: {exc}") from exc
