"""Identities in files: one PEM file with the private key and the certificate chain behind it, mode 0600.

Every file is written whole under another name first, so that nobody ever sees half of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from macula_trio._identity.keys import Credentials
from macula_trio._reading import read_bounded
from macula_trio.errors import IdentityFileError

BYTES_MAX: Final = 1024 * 1024  # hundreds of certificates; as much as Trust takes for an authority
PUBLIC_MODE: Final = 0o644  # of certificates, which are shown to everybody


def read_file(path: str | os.PathLike[str], *, what: str, mend: str) -> bytes:
    """Read a file whole.

    Args:
      path: the file.
      what: it holds, such as ``identity``, for the complaint.
      mend: what to do when it is missing.

    Raises:
      IdentityFileError: missing, unreadable or too large.
    """
    try:
        return read_bounded(path, bytes_max=BYTES_MAX)
    except FileNotFoundError as exc:
        raise IdentityFileError(f"{what} {os.fspath(path)}: no such file; {mend}") from exc
    except OSError as exc:
        raise IdentityFileError(f"{what} {os.fspath(path)}: cannot be read: {exc.strerror}") from exc


@contextmanager
def _written_beside(target: Path, data: bytes, what: str) -> Generator[Path, None, None]:
    """Put ``data`` into a file beside ``target`` that only we can read; the block moves it, or it is removed.

    Raises:
      FileExistsError: the block's.
      IdentityFileError: it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # mode 0600
    except OSError as exc:
        raise IdentityFileError(f"{what} {target}: cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(temporary)
    except FileExistsError:
        raise
    except OSError as exc:
        raise IdentityFileError(f"{what} {target}: cannot be written: {exc.strerror}") from exc
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_new(path: str | os.PathLike[str], data: bytes, *, what: str, public: bool = False) -> None:
    """Write a file that was not there.

    Args:
      path: the file.
      data: its content.
      what: it holds, for the complaint.
      public: whether everybody may read it, and not only its owner.

    Raises:
      FileExistsError: there is a file already; keys are not overwritten.
      IdentityFileError: it cannot be written.
    """
    target = Path(path)
    with _written_beside(target, data, what) as temporary:
        if public:
            temporary.chmod(PUBLIC_MODE)
        # Linked, not renamed: of two processes that create the same file one wins and the other notices.
        os.link(temporary, target)


def rewrite(path: str | os.PathLike[str], data: bytes, *, what: str) -> None:
    """Replace the content of a file at once; its owner, its mode and the links to it stay.

    Raises:
      IdentityFileError: it is not there, or cannot be written.
    """
    target = Path(os.path.realpath(path))  # the file, not a link that names it
    with _written_beside(target, data, what) as temporary:
        old, new = target.stat(), temporary.stat()
        # When root renews the certificate of a service, the service must still be able to read its file.
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.chown(temporary, old.st_uid, old.st_gid)
        temporary.chmod(stat.S_IMODE(old.st_mode))
        temporary.replace(target)


class Identity(Credentials):
    """Who a node is: one private key and one X.509 certificate chain.

    Made by `generate`, `load`, `load_or_create` or `from_pem`; ``node_id`` is derived from the key.
    """

    __slots__ = ()

    @classmethod
    def generate(cls) -> Self:
        """Make a new Ed25519 key with a self-signed certificate."""
        key = ed25519.Ed25519PrivateKey.generate()
        return cls.from_seed(
            key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, password: bytes | None = None) -> Self:
        """Read an identity that `save` wrote, or any PEM key with its chain.

        Blocks on the disk, briefly: call it before the event loop or accept a millisecond.

        Args:
          path: the file.
          password: of an encrypted key; refused for one that is not encrypted.

        Raises:
          IdentityFileError: missing, unreadable, malformed or not to be decrypted; one line with the path and the mend.
        """
        pem = read_file(path, what="identity", mend="make it by macula-trio keygen")
        try:
            return cls.from_pem(pem, password=password)
        except IdentityFileError as exc:
            raise IdentityFileError(f"identity {os.fspath(path)}: {exc}") from exc

    def save(self, path: str | os.PathLike[str], *, password: bytes | None = None) -> None:
        """Write a new file that only its owner can read (mode 0600).  Never replaces a file.

        Args:
          path: the file.
          password: encrypts the key; not encrypted by default.

        Raises:
          FileExistsError: there is a file already; keys are not overwritten.
          IdentityFileError: it cannot be written, or a password of no or too many bytes.
        """
        write_new(path, self.to_pem(password), what="identity")

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str], *, password: bytes | None = None) -> Self:
        """Read the identity in ``path``; when there is no such file, make one.

        Args:
          path: the file.
          password: of the encrypted key, and of one that is made.

        Raises:
          IdentityFileError: unreadable, malformed, not to be decrypted, or it cannot be written.
        """
        if not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):  # somebody was faster: theirs counts
                cls.generate().save(path, password=password)
        return cls.load(path, password=password)
