"""The commands ``dht get``, ``dht put`` and ``dht find-node``."""

from __future__ import annotations

import click

from macula_trio import Record
from macula_trio._cli.options import KEY, VALUE, Session, one_shot
from macula_trio._cli.output import ID_DIGITS, count, json_text, note, print_json, print_table, say
from macula_trio._cli.runner import open_client, run
from macula_trio._identity.record import Kind
from macula_trio._net.udp import UdpNetwork

_KINDS = click.Choice(["service", "subscriber"])


@click.group()
def dht() -> None:
    """Look into the DHT, or write to it.

    KEY and ID are 64 hexadecimal digits, or any other text: a name, whose SHA-256 is the key, as the mesh does it for
    procedures and topics (name:TEXT for a name that looks like a key).
    """


@dht.command()
@click.argument("key", type=KEY)
@click.option("--kind", type=_KINDS, help="Only services, or only subscribers; both by default.")
@one_shot()
def get(*, key: bytes, kind: Kind | None, session: Session, as_json: bool) -> int:
    """Print the values under KEY; fails when there is none.

    Each value is verified: its owner signed it for this realm and key.
    """

    async def work() -> int:
        async with open_client(session, waits_for=key.hex()) as member:
            records = await member.find_value(key, kind=kind)
        if as_json:
            print_json({"key": key.hex(), "values": [_described(record) for record in records]})
        if not records:
            raise click.ClickException(f"no value under key {key.hex()}")
        if not as_json:
            now_ms = UdpNetwork().wall_clock_ms()
            print_table(
                ["owner", "kind", "endpoint", "expires", "metadata"],
                (
                    [
                        record.node_id.hex()[:ID_DIGITS],
                        record.kind,
                        record.endpoint or "",
                        f"in {(record.expires_ms - now_ms) // 1000} s",
                        json_text(record.metadata),
                    ]
                    for record in records
                ),
            )
        return 0

    return run(work)


def _described(record: Record) -> dict[str, object]:
    return {
        "owner": record.node_id.hex(),
        "kind": record.kind,
        "endpoint": record.endpoint,
        "expires_ms": record.expires_ms,
        "seq": record.seq,
        "metadata": record.metadata,
    }


@dht.command()
@click.argument("key", type=KEY)
@click.argument("value", metavar="JSON-OR-TEXT", type=VALUE)
@click.option("--kind", type=_KINDS, default="service", show_default=True, help="Which of our two values under KEY.")
@one_shot()
def put(*, key: bytes, value: dict[str, object], kind: Kind, session: Session, as_json: bool) -> int:
    """Store a value under KEY, once, signed by us.

    A JSON object is stored as it is, anything else as {"value": ...}. The value names us as its owner and stays until
    it expires (300 s), though we leave at once; so under the name of a procedure callers would look for us in vain.
    """

    async def work() -> int:
        async with open_client(session, waits_for=key.hex()) as member:
            report = await member.store(key, value, kind=kind)
        stored = [node_id.hex() for node_id in report.stored]
        if as_json:
            refused = {node_id.hex(): reason for node_id, reason in report.refused.items()}
            unreachable = [node_id.hex() for node_id in report.unreachable]
            print_json(
                {
                    "key": key.hex(),
                    "owner": member.node_id.hex(),
                    "stored": stored,
                    "refused": refused,
                    "unreachable": unreachable,
                }
            )
        if not stored:
            reasons = ", ".join(sorted(set(report.refused.values()))) or "unreachable"
            raise click.ClickException(f"no node stored it under key {key.hex()}: {reasons}")
        if not as_json:
            say(f"key {key.hex()}")
            say(f"stored on {count(len(stored), 'node')}: {' '.join(name[:ID_DIGITS] for name in stored)}")
            missed = len(report.refused) + len(report.unreachable)
            if missed:
                note(f"{len(report.refused)} refused, {len(report.unreachable)} unreachable")
        return 0

    return run(work)


@dht.command("find-node")
@click.argument("target", metavar="ID", type=KEY)
@one_shot()
def find_node(*, target: bytes, session: Session, as_json: bool) -> int:
    """Print the nodes closest to ID, nearest first."""

    async def work() -> int:
        async with open_client(session, waits_for=target.hex()) as member:
            found = await member.find_node(target)
        if as_json:
            nodes = [{"node_id": contact.node_id.hex(), "endpoint": contact.endpoint} for contact in found]
            print_json({"target": target.hex(), "nodes": nodes})
        if not found:
            raise click.ClickException("no node answered")
        if not as_json:
            print_table(["node id", "endpoint"], ([c.node_id.hex()[:ID_DIGITS], c.endpoint] for c in found))
        return 0

    return run(work)
