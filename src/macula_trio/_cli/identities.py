"""Who a node is, as settings say it: one key file, or a certificate and its key in files of their own."""

from __future__ import annotations

import os

import attrs

from macula_trio import Identity, IdentityFileError
from macula_trio._cli.levels import Settled
from macula_trio._cli.passphrases import KEY as KEY_PASSPHRASE
from macula_trio._cli.passphrases import given_passphrase, key_passphrase, looks_encrypted
from macula_trio._identity.files import read_file


@attrs.frozen(kw_only=True)
class KeyFiles:
    """Where the identity is.

    Attributes:
      identity: file with key and chain, or None.
      certificate: file with the chain, when the key is in ``key``; or None.
      key: file with the key, likewise.
      password: of the encrypted key.
    """

    identity: str | None
    certificate: str | None
    key: str | None
    password: bytes | None = attrs.field(repr=False)

    @property
    def known(self) -> bool:
        """Whether there is any file, and so an identity that stays."""
        return self.identity is not None or self.key is not None

    def load(self, *, create: bool) -> Identity:
        """Read the identity, or make a new one when there is no file for it.

        Args:
          create: whether a key file that is not there is made.

        Raises:
          IdentityFileError: unreadable, malformed, not to be decrypted, or the certificate is not for the key.
        """
        if self.identity is not None:
            read = Identity.load_or_create if create else Identity.load
            return read(self.identity, password=self.password)
        if self.certificate is None or self.key is None:
            return Identity.generate()
        key = read_file(self.key, what="private key", mend="name a PEM file")
        chain = read_file(self.certificate, what="certificate", mend="name a PEM file")
        try:
            return Identity.from_pem(key, chain, password=self.password)
        except IdentityFileError as exc:
            raise IdentityFileError(f"certificate {self.certificate} and key {self.key}: {exc}") from exc


def key_files(settled: Settled) -> KeyFiles:
    """The files that settings name, and the passphrase of the key, which is asked for if need be.

    Raises:
      click.UsageError: there is no passphrase though the key is encrypted, or no key that it is for.
    """
    identity, key = settled["identity"], settled["tls_key_file"]
    return KeyFiles(
        identity=identity,
        certificate=settled["tls_cert_file"],
        key=key,
        password=key_passphrase(identity or key, settled["key_passphrase_file"]),
    )


def check_key_files(settled: Settled) -> None:
    """See whether a node could start with the files that settings name: nothing is made, and nobody is asked.

    Raises:
      click.UsageError: the passphrase cannot be read.
      IdentityFileError: the identity cannot be read.
    """
    identity, key = settled["identity"], settled["tls_key_file"]
    password = given_passphrase(KEY_PASSPHRASE, settled["key_passphrase_file"]) if identity or key else None
    file = identity or key
    if file is None or (identity is not None and not os.path.lexists(identity)):
        return
    if password is None and looks_encrypted(file):
        return  # a node would ask
    KeyFiles(identity=identity, certificate=settled["tls_cert_file"], key=key, password=password).load(create=False)
