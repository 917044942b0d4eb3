"""The commands ``realm issue``, ``realm request`` and ``realm install``: who becomes and stays a member of a realm."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from macula_trio import Identity, MeshError, RealmMismatch, TrustError
from macula_trio._cli.certificates import fact_json, load_certificates, print_lines, utc_now, validity_lines
from macula_trio._cli.options import ALTERNATIVE_NAME, json_option, wrong_usage
from macula_trio._cli.output import count, note, print_json, say
from macula_trio._cli.passphrases import (
    CA,
    KEY,
    ask_passphrase,
    ca_passphrase_option,
    encrypt_option,
    key_passphrase,
    key_passphrase_option,
)
from macula_trio._cli.signals import deferred
from macula_trio._identity.authority import NODE_LIFETIME, RealmAuthority, certificate_request, requested_key
from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.facts import CertificateFacts, read_facts
from macula_trio._identity.files import read_file, rewrite, write_new
from macula_trio._identity.keys import PublicKey, certificates_pem, load_spki, spki, spki_of_certificate

CERTIFICATE_FILE: Final = "ca.pem"
KEY_FILE: Final = "ca.key"
DAYS_MAX: Final = 3650


@attrs.frozen(kw_only=True)
class _KeyFile:
    """A node's key with the chain behind it.

    Attributes:
      file: where it is, or will be.
      identity: what is in it, or new.
      passphrase: that encrypts it.
      new: whether it is still to be written.
    """

    file: str
    identity: Identity
    passphrase: bytes | None = attrs.field(repr=False)
    new: bool

    @property
    def public_key(self) -> PublicKey:
        """To be certified."""
        return load_spki(self.identity.spki)

    @property
    def earlier(self) -> x509.Certificate | None:
        """The certificate that another one replaces."""
        return None if self.new else self.identity.chain[0]

    def keep(self, chain: bytes) -> None:
        """Put a chain beside the key, at once."""
        held = self.identity.with_chain(chain)
        if self.new:
            held.save(self.file, password=self.passphrase)
        else:
            rewrite(self.file, held.to_pem(self.passphrase), what="identity")


@attrs.frozen(kw_only=True)
class _ChainFile:
    """The chain of a node whose key is elsewhere.

    Attributes:
      file: where it will be.
      public_key: to be certified.
      earlier: the certificate of the same key that another one replaces.
    """

    file: str
    public_key: PublicKey
    earlier: x509.Certificate | None

    @property
    def new(self) -> bool:
        """Whether a key was made."""
        return False

    def keep(self, chain: bytes) -> None:
        """Write a chain, at once."""
        if self.earlier is None:
            write_new(self.file, chain, what="certificate", public=True)
        else:
            rewrite(self.file, chain, what="certificate")


_MemberFile: TypeAlias = _KeyFile | _ChainFile


def _open_key_file(file: str, *, encrypt: bool = False, passphrase_file: str | None, make: bool = True) -> _KeyFile:
    """Read a node's key file, or make a key that is not written yet."""
    new = make and not os.path.lexists(file)
    if new and encrypt:
        passphrase: bytes | None = ask_passphrase(KEY, passphrase_file, new=True)
    else:
        passphrase = key_passphrase(file, passphrase_file)
    if new:
        return _KeyFile(file=file, identity=Identity.generate(), passphrase=passphrase, new=True)
    with wrong_usage():
        identity = Identity.load(file, password=passphrase)
    if encrypt and passphrase is None:
        raise click.UsageError(f"{file}: its key is not encrypted and stays so; --encrypt is for new ones")
    return _KeyFile(file=file, identity=identity, passphrase=passphrase, new=False)


def _open_chain_file(file: str, csr: str) -> _ChainFile:
    """Read a request, and the certificate of the same key in FILE; whatever else is there is not ours to replace."""
    with wrong_usage():
        request = read_file(csr, what="certificate request", mend="make it by macula-trio realm request")
        try:
            key = requested_key(request)
        except TrustError as exc:
            raise click.ClickException(f"certificate request {csr}: {exc}") from exc
        except MeshError as exc:
            raise ValueError(f"certificate request {csr}: {exc}") from exc
        if not os.path.lexists(file):
            return _ChainFile(file=file, public_key=key, earlier=None)
        (leaf, *_), _ = load_certificates(file)
        if b"PRIVATE KEY" in read_file(file, what="certificate", mend="name a PEM file"):
            raise ValueError(f"{file}: holds a private key, which --csr would overwrite; name another file")
        if spki_of_certificate(leaf) != spki(key):
            raise ValueError(f"{file}: holds the certificate of another key, which is not overwritten; name another")
    return _ChainFile(file=file, public_key=key, earlier=leaf)


def _load_authority(directory: str, passphrase_file: str | None) -> RealmAuthority:
    with wrong_usage():
        mend = "make it by macula-trio realm init"
        certificate = read_file(Path(directory, CERTIFICATE_FILE), what="CA", mend=mend)
        key = read_file(Path(directory, KEY_FILE), what="CA", mend=mend)
    passphrase = ask_passphrase(CA, passphrase_file, new=False)
    try:
        return RealmAuthority.from_pem(key, certificate, password=passphrase)
    except MeshError as exc:
        raise click.UsageError(f"CA {directory}: {exc}") from exc


def _keep(target: _MemberFile, chain: bytes, realm_name: str | None) -> None:
    """Write a chain, unless it would move a node from one realm to another."""
    with wrong_usage():
        if target.earlier is not None and realm_name is not None:
            facts = read_facts(target.earlier)
            if facts.server_name not in {None, realm_server_name(realm_name)}:
                other = facts.realm or facts.server_name
                raise ValueError(f"{target.file}: is of realm {other}, not {realm_name}; name another file")
        try:
            with deferred():
                target.keep(chain)
        except FileExistsError:
            raise ValueError(f"{target.file}: somebody made it meanwhile, and it is not overwritten") from None


def _tell(
    target: _MemberFile, facts: CertificateFacts, now: datetime.datetime, *, as_json: bool, shortened: bool
) -> None:
    if as_json:
        print_json({"file": target.file, "new_key": target.new, "shortened": shortened, **fact_json(facts, now)})
        return
    print_lines(
        [
            ("file", f"{target.file} (with a new key)" if target.new else target.file),
            ("realm", facts.realm or "none"),
            ("node id", facts.node_id.hex()),
            *validity_lines(facts, now),
        ]
    )


@click.command()
@click.argument("directory")
@click.argument("file")
@click.option("--csr", metavar="REQUEST", help="Made by `realm request`; FILE gets the certificate without a key.")
@click.option(
    "--days",
    type=click.IntRange(1, DAYS_MAX),
    default=NODE_LIFETIME.days,
    show_default=True,
    help="Lifetime; never longer than the CA's.",
)
@click.option(
    "--name",
    "names",
    type=ALTERNATIVE_NAME,
    multiple=True,
    help="A further name of the node, for programs that ask for it; may be repeated.",
)
@click.option("--realm", "name", metavar="NAME", help="Refuse to issue if the CA is that of another realm.")
@encrypt_option
@key_passphrase_option
@ca_passphrase_option
@json_option
def issue(
    *,
    directory: str,
    file: str,
    csr: str | None,
    days: int,
    names: tuple[x509.GeneralName, ...],
    name: str | None,
    encrypt: bool,
    key_passphrase_file: str | None,
    passphrase_file: str | None,
    as_json: bool,
) -> int:
    """Make a node a member, or renew its certificate.

    DIRECTORY holds the CA, FILE the node's key. When there is no FILE, it is made with a new key; else its key stays
    and the certificate in it is replaced. Nodes read it when they start.
    """
    if csr is not None and (encrypt or key_passphrase_file is not None):
        raise click.UsageError("--csr leaves no key here that could be encrypted")
    target: _MemberFile = (
        _open_key_file(file, encrypt=encrypt, passphrase_file=key_passphrase_file)
        if csr is None
        else _open_chain_file(file, csr)
    )
    authority = _load_authority(directory, passphrase_file)
    now, lifetime = utc_now(), datetime.timedelta(days=days)
    try:
        made = authority.issue(
            target.public_key, serial=x509.random_serial_number(), now=now, lifetime=lifetime, names=names, realm=name
        )
    except (ValueError, RealmMismatch) as exc:
        raise click.UsageError(str(exc)) from exc
    except MeshError as exc:
        raise click.ClickException(f"CA {directory}: {exc}") from exc
    _keep(target, certificates_pem([made]), authority.realm)
    facts = read_facts(made)
    shortened = facts.valid_until < now + lifetime
    if shortened:
        note(f"warning: not {count(days, 'day')}, because the CA itself ends then; give the nodes a new CA in time")
    _tell(target, facts, now, as_json=as_json, shortened=shortened)
    return 0


@click.command()
@click.argument("file")
@encrypt_option
@key_passphrase_option
@json_option
def request(*, file: str, encrypt: bool, key_passphrase_file: str | None, as_json: bool) -> int:
    """Print a request for a certificate (CSR).

    The key stays on the node's machine. FILE is its identity, made with a new key when missing. Who has the CA answers
    by `realm issue --csr`, and `realm install` puts the certificate into FILE.
    """
    target = _open_key_file(file, encrypt=encrypt, passphrase_file=key_passphrase_file)
    if target.new:
        _keep(target, certificates_pem(target.identity.chain), None)
    made = certificate_request(target.identity).public_bytes(serialization.Encoding.PEM).decode()
    node_id = target.identity.node_id.hex()
    if as_json:
        print_json({"file": file, "new_key": target.new, "node_id": node_id, "request": made})
    else:
        say(made.rstrip())
        note(f"node id {node_id}")
    return 0


@click.command()
@click.argument("file")
@click.argument("certificate")
@key_passphrase_option
@json_option
def install(*, file: str, certificate: str, key_passphrase_file: str | None, as_json: bool) -> int:
    """Put a CERTIFICATE beside the key in FILE.

    It is the answer to `realm request`.
    """
    chain, facts = load_certificates(certificate)
    target = _open_key_file(file, passphrase_file=key_passphrase_file, make=False)
    _keep(target, certificates_pem(chain), facts.realm)
    _tell(target, facts, utc_now(), as_json=as_json, shortened=False)
    return 0
