"""Passphrases of private keys: out of a file, out of the environment, or asked for on a terminal.

Never an argument of a command, which every user of the machine can see.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import attrs
import click

from macula_trio import MeshError
from macula_trio._identity.files import read_file


@attrs.frozen(kw_only=True)
class Source:
    """Where the passphrase of one kind of key comes from.

    Attributes:
      what: whose it is, for prompts and complaints.
      option: that names a file; its first line counts.
      variable: of the environment, when the option is not given.
    """

    what: str
    option: str
    variable: str


KEY: Final = Source(what="the node's key", option="--key-passphrase-file", variable="MACULA_KEY_PASSPHRASE")
CA: Final = Source(what="the CA's key", option="--passphrase-file", variable="MACULA_CA_PASSPHRASE")

key_passphrase_option: Final = click.option(
    KEY.option,
    "key_passphrase_file",
    metavar="FILE",
    help=f"Its first line decrypts the key file; {KEY.variable} or a prompt by default.",
)
ca_passphrase_option: Final = click.option(
    CA.option,
    "passphrase_file",
    metavar="FILE",
    help=f"Its first line is the CA's passphrase; {CA.variable} or a prompt by default.",
)
encrypt_option: Final = click.option("--encrypt", is_flag=True, help="Encrypt a new key, and ask for the passphrase.")


def given_passphrase(source: Source, file: str | None) -> bytes | None:
    """Read a passphrase that was given beforehand; None when there is none.

    Raises:
      click.UsageError: it is empty, or the file cannot be read.
    """
    if file is not None:
        try:
            content = read_file(file, what="passphrase file", mend="write the passphrase there first")
        except MeshError as exc:
            raise click.UsageError(str(exc)) from exc
        name, passphrase = file, content.partition(b"\n")[0].rstrip(b"\r")
    elif source.variable in os.environ:
        name, passphrase = source.variable, os.fsencode(os.environ[source.variable])
    else:
        return None
    if not passphrase:  # taken for none, it would leave a key unencrypted that somebody wanted encrypted
        raise click.UsageError(f"the passphrase in {name} is empty")
    return passphrase


def ask_passphrase(source: Source, file: str | None, *, new: bool) -> bytes:
    """Read a passphrase that must be there: given beforehand, or else typed.

    Args:
      source: which.
      file: that the option names.
      new: whether it is chosen now, and so typed twice.

    Raises:
      click.UsageError: there is none, and nobody to be asked.
    """
    passphrase = given_passphrase(source, file)
    if passphrase is not None:
        return passphrase
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{source.what} needs a passphrase: give {source.option} FILE or {source.variable}, or run on a terminal"
        )
    prompt = f"{'New passphrase' if new else 'Passphrase'} of {source.what}"
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
    return typed.encode()


def key_passphrase(path: str | None, file: str | None) -> bytes | None:
    """Read the passphrase of a key file, asking for it only if the file is encrypted.

    Args:
      path: the key file, which need not be there; None when there is none to be read.
      file: that ``--key-passphrase-file`` names.

    Raises:
      click.UsageError: there is none though the key is encrypted, or no key that it is for.
    """
    if path is None:
        if file is not None:
            raise click.UsageError(f"{KEY.option} is for a key file; name it by --identity FILE or --tls-key-file FILE")
        return None
    passphrase = given_passphrase(KEY, file)
    if passphrase is None and looks_encrypted(path):
        return ask_passphrase(KEY, None, new=False)
    return passphrase


def looks_encrypted(path: str) -> bool:
    """Whether to ask; the file is judged when it is loaded."""
    try:
        # RFC 7468, section 11, and RFC 1421 before it
        return b"ENCRYPTED" in read_file(path, what="identity", mend="")
    except MeshError:
        return False
