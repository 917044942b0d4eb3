"""Certificates as people and programs read them."""

from __future__ import annotations

import datetime
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import Final

import click
from cryptography import x509

from macula_trio import MeshError, TrustError
from macula_trio._cli.output import count, one_line, say
from macula_trio._identity.chain import chain_problem, verify_chain
from macula_trio._identity.facts import CertificateFacts, read_facts
from macula_trio._identity.files import read_file
from macula_trio._identity.keys import read_certificates
from macula_trio._net.udp import UdpNetwork

COLUMNS: Final = 80
_LABEL: Final = 13  # the longest label and a gap; a node id of 64 digits fits behind it


def utc_now() -> datetime.datetime:
    """The time, in whole seconds as certificates have it."""
    return datetime.datetime.fromtimestamp(UdpNetwork().wall_clock_ms() // 1000, tz=datetime.UTC)


def load_certificates(path: str, *, what: str = "certificate") -> tuple[tuple[x509.Certificate, ...], CertificateFacts]:
    """Read a file with certificates, and what the first one says; a private key in it is passed over.

    Raises:
      click.UsageError: unreadable or malformed.
    """
    try:
        pem = read_file(path, what=what, mend="name a PEM file")
    except MeshError as exc:
        raise click.UsageError(str(exc)) from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `cryptography` on names and numbers that it reads all the same
            chain = read_certificates(pem)
            return chain, read_facts(chain[0])
    except MeshError as exc:
        raise click.UsageError(f"{what} {path}: {exc}") from exc


def problem_with(
    chain: Sequence[x509.Certificate], facts: CertificateFacts, ca: str, now: datetime.datetime
) -> str | None:
    """Say why nodes that know the CA in a file would not believe a chain; None when they would."""
    roots, root = load_certificates(ca, what="CA")
    if facts.authority:
        return chain_problem(chain, roots, now=now)
    try:
        verify_chain(chain, roots=roots, side=None, name=root.server_name, now=now)
    except TrustError as exc:
        return str(exc)
    return None


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Write facts for people, one after another, in 80 columns."""
    for label, value in lines:
        wrapped = textwrap.wrap(one_line(value), COLUMNS - _LABEL) or [""]
        for number, part in enumerate(wrapped):
            say(f"{label if number == 0 else '':{_LABEL}}{part}".rstrip())


def moment(when: datetime.datetime) -> str:
    """Write a date for people."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def validity_lines(facts: CertificateFacts, now: datetime.datetime) -> list[tuple[str, str]]:
    """Until when, and when to renew."""
    left = days_left(facts, now)
    state = f"{count(left, 'day')} left" if now <= facts.valid_until else "expired"
    if now < facts.valid_from:
        state = "not yet valid"
    due = "due now" if now >= facts.renewal else f"in {count((facts.renewal - now).days, 'day')}"
    return [
        ("valid until", f"{moment(facts.valid_until)} ({state})"),
        ("renew from", f"{moment(facts.renewal)} ({due})"),
    ]


def days_left(facts: CertificateFacts, now: datetime.datetime) -> int:
    """Whole days until a certificate ends; none when it has."""
    return max(0, (facts.valid_until - now).days)


def fact_lines(facts: CertificateFacts, now: datetime.datetime) -> list[tuple[str, str]]:
    """Everything that a certificate says, for people."""
    unknown = "none" if facts.server_name is None else "not told"
    return [
        ("kind", "CA" if facts.authority else "node"),
        ("realm", facts.realm or unknown),
        *([] if facts.server_name is None else [("server name", facts.server_name)]),
        *([] if facts.authority else [("node id", facts.node_id.hex())]),
        *([("names", ", ".join(facts.names))] if facts.names else []),
        ("subject", facts.subject),
        ("issuer", facts.issuer),
        ("usages", ", ".join(facts.usages) or "not limited"),
        ("valid from", moment(facts.valid_from)),
        *validity_lines(facts, now),
    ]


def fact_json(facts: CertificateFacts, now: datetime.datetime) -> dict[str, object]:
    """Everything that a certificate says, for programs."""
    return {
        "kind": "ca" if facts.authority else "node",
        "realm": facts.realm,
        "server_name": facts.server_name,
        "node_id": None if facts.authority else facts.node_id.hex(),
        "names": facts.names,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "usages": facts.usages,
        "valid_from": facts.valid_from.isoformat(),
        "valid_until": facts.valid_until.isoformat(),
        "days_left": days_left(facts, now),
        "renew_from": facts.renewal.isoformat(),
        "renewal_due": now >= facts.renewal,
    }
