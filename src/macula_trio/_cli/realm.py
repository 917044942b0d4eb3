"""The commands ``realm init`` and ``realm show``; those that make members are in ``members.py``."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from macula_trio._cli.certificates import (
    fact_json,
    fact_lines,
    load_certificates,
    moment,
    print_lines,
    problem_with,
    utc_now,
)
from macula_trio._cli.members import CERTIFICATE_FILE, KEY_FILE, install, issue, request
from macula_trio._cli.options import json_option, wrong_usage
from macula_trio._cli.output import count, print_json
from macula_trio._cli.passphrases import CA, ask_passphrase, ca_passphrase_option
from macula_trio._cli.signals import deferred
from macula_trio._identity.authority import CA_LIFETIME, RealmAuthority
from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.files import write_new
from macula_trio._identity.keys import certificates_pem
from macula_trio._util import validate_name

CA_PASSPHRASE_BYTES_MIN: Final = 12  # a stolen ca.key is tried at leisure: PKCS #8 slows each guess down but little
YEARS_MAX: Final = 50
_DAYS_PER_YEAR: Final = 365.25


@click.group()
def realm() -> None:
    """Found a realm, and make nodes its members.

    A realm is a private CA: nodes believe each other when it issued their certificates. Members keep their keys, and
    so their node ids, when a certificate is renewed.
    """


realm.add_command(issue)
realm.add_command(request)
realm.add_command(install)


@realm.command()
@click.argument("directory")
@click.option("--realm", "name", required=True, metavar="NAME", help="Name of the mesh.")
@click.option(
    "--years", type=click.IntRange(1, YEARS_MAX), default=CA_LIFETIME.days // 365, show_default=True, help="Lifetime."
)
@ca_passphrase_option
@json_option
def init(*, directory: str, name: str, years: int, passphrase_file: str | None, as_json: bool) -> int:
    """Make the CA of a realm in DIRECTORY.

    ca.pem is for all nodes. ca.key, always encrypted, decides who is a member: keep it where no node runs.
    """
    certificate, key = Path(directory, CERTIFICATE_FILE), Path(directory, KEY_FILE)
    with wrong_usage():
        validate_name(name, what="realm")
        for path in (certificate, key):
            if os.path.lexists(path):
                raise ValueError(f"{path}: there is a CA already, and it is not overwritten; name another directory")
    passphrase = ask_passphrase(CA, passphrase_file, new=True)
    if len(passphrase) < CA_PASSPHRASE_BYTES_MIN:
        raise click.UsageError(f"the passphrase of a CA has at least {CA_PASSPHRASE_BYTES_MIN} bytes")
    made = RealmAuthority.create(
        name,
        key=ed25519.Ed25519PrivateKey.generate(),
        serial=x509.random_serial_number(),
        now=utc_now(),
        lifetime=datetime.timedelta(days=round(years * _DAYS_PER_YEAR)),
    )
    with wrong_usage(), deferred():
        try:
            _write_authority(made, passphrase, certificate, key)
        except FileExistsError:
            raise ValueError(f"{directory}: there is a CA already, and it is not overwritten") from None
    until = made.certificate.not_valid_after_utc
    if as_json:
        print_json(
            {
                "certificate": str(certificate),
                "key": str(key),
                "realm": name,
                "server_name": realm_server_name(name),
                "valid_until": until.isoformat(),
            }
        )
    else:
        print_lines(
            [
                ("realm", name),
                ("certificate", f"{certificate} (give it to every node)"),
                ("key", f"{key} (encrypted; keep it away from them)"),
                ("valid until", moment(until)),
            ]
        )
    return 0


def _write_authority(made: RealmAuthority, passphrase: bytes, certificate: Path, key: Path) -> None:
    """Write both files or none.

    Raises:
      FileExistsError: somebody was faster.
      ValueError: the directory cannot be made.
      IdentityFileError: one cannot be written.
    """
    directory = key.parent
    founded = not os.path.lexists(directory)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as exc:
        raise ValueError(f"{directory}: no such directory can be made: {exc.strerror}") from exc
    written: list[Path] = []
    try:
        # The key first: of two that found a realm here at once, one fails before anybody saw its certificate.
        for path, data, public in (
            (key, made.key_pem(passphrase), False),
            (certificate, certificates_pem([made.certificate]), True),
        ):
            write_new(path, data, what="CA", public=public)
            written.append(path)
    except BaseException:  # interrupted as well
        for path in written:
            path.unlink()
        if founded and not any(directory.iterdir()):
            directory.rmdir()
        raise


@realm.command()
@click.argument("file")
@click.option("--ca", metavar="FILE", help="Fail unless nodes that know this CA would believe it.")
@json_option
def show(*, file: str, ca: str | None, as_json: bool) -> int:
    """Print what a certificate says.

    Needs no passphrase. FILE is a CA, a node's identity, or a certificate with its chain.
    """
    chain, facts = load_certificates(file)
    now = utc_now()
    problem = None if ca is None else problem_with(chain, facts, ca, now)
    if as_json:
        believed = None if ca is None else problem is None
        print_json({**fact_json(facts, now), "certificates": len(chain), "believed": believed, "problem": problem})
    else:
        length = [] if len(chain) == 1 else [("chain", count(len(chain), "certificate"))]
        verdict = [] if ca is None else [("believed", f"no: {problem}" if problem else f"yes, by nodes that know {ca}")]
        print_lines([*fact_lines(facts, now), *length, *verdict])
    if problem is not None:
        raise click.ClickException(f"{file}: not believed by nodes that know {ca}: {problem}")
    return 0
