"""Identities in files: one PEM file with the private key and the certificate chain behind it, mode 0600."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from macula_trio._identity.keys import Credentials
from macula_trio.errors import IdentityFileError


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
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an identity that `save` wrote, or any unencrypted PEM key with its chain.

        Blocks on the disk, briefly: call it before the event loop or accept a millisecond.

        Raises:
          IdentityFileError: missing, unreadable or malformed; one line with the path and the mend.
        """
        try:
            pem = Path(path).read_bytes()
        except FileNotFoundError as exc:
            raise IdentityFileError(f"identity {os.fspath(path)}: no such file; make it by macula-trio keygen") from exc
        except OSError as exc:
            raise IdentityFileError(f"identity {os.fspath(path)}: cannot be read: {exc.strerror}") from exc
        try:
            return cls.from_pem(pem)
        except IdentityFileError as exc:
            raise IdentityFileError(f"identity {os.fspath(path)}: {exc}") from exc

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new file that only its owner can read (mode 0600).  Never replaces a file.

        Raises:
          FileExistsError: there is a file already; keys are not overwritten.
          IdentityFileError: it cannot be written.
        """
        target = Path(path)
        # Written whole under another name, then linked: nobody ever sees half a key, and of two
        # processes that create the same file one wins and the other notices.
        try:
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # mode 0600
        except OSError as exc:
            raise IdentityFileError(f"identity {target}: cannot be written: {exc.strerror}") from exc
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_pem())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError as exc:
            raise IdentityFileError(f"identity {target}: cannot be written: {exc.strerror}") from exc
        finally:
            Path(temporary).unlink()

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Self:
        """Read the identity in ``path``; when there is no such file, make one.

        Raises:
          IdentityFileError: unreadable, malformed, or it cannot be written.
        """
        if not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):  # somebody was faster: theirs counts
                cls.generate().save(path)
        return cls.load(path)
