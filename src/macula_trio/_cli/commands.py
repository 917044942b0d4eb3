"""The commands; each reads its arguments, does one thing with the public face of the library, and prints."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import click
import trio

from macula_trio import (
    EventStream,
    Identity,
    IdentityFileError,
    Message,
    Node,
    Outcome,
    TrustError,
    __version__,
)
from macula_trio._cli.config_show import config
from macula_trio._cli.demo import demo
from macula_trio._cli.dht import dht
from macula_trio._cli.health import open_health, require_extra
from macula_trio._cli.identities import key_files
from macula_trio._cli.levels import Settled
from macula_trio._cli.options import (
    JSON,
    PATTERN,
    PEER,
    PROCEDURE,
    TOPIC,
    Session,
    json_option,
    one_shot,
    settled_by,
    wrong_usage,
)
from macula_trio._cli.output import ID_DIGITS, count, json_text, milliseconds, note, print_json, print_table, say
from macula_trio._cli.passphrases import (
    KEY,
    ask_passphrase,
    encrypt_option,
    given_passphrase,
    key_passphrase_option,
)
from macula_trio._cli.realm import realm as realm_commands
from macula_trio._cli.replay import replay
from macula_trio._cli.runner import open_client, open_member, resolve, run, warn
from macula_trio._cli.settings import NODE_SETTINGS
from macula_trio._cli.signals import deferred
from macula_trio._cli.sweep import sweep
from macula_trio._race import first_success
from macula_trio._util import Address, format_endpoint


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="macula-trio")
def cli() -> None:
    """A peer-to-peer mesh over QUIC: calls, messages and a DHT.

    Begin with `macula-trio demo`.

    Every command takes --json: stdout then holds exactly one JSON object (`subscribe`: one per line and message), or
    nothing when there is no result. Errors are one line on stderr, `error: ...`. Exit codes: 0 done, 1 the operation
    failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """


cli.add_command(config)
cli.add_command(demo)
cli.add_command(dht)
cli.add_command(realm_commands)
cli.add_command(replay)
cli.add_command(sweep)


@cli.command()
@settled_by(NODE_SETTINGS)
@json_option
def node(*, settled: Settled, as_json: bool) -> int:
    """Run a node until SIGINT or SIGTERM, which drain it; SIGHUP reads its certificate and its trust policy again.

    Calls that run then may finish, for drain_deadline_s at most; a second signal cancels them.

    Settings come from flags, else from the environment (MACULA_LISTEN for --listen, ...), else from the file of
    --config; `macula-trio config show` tells which. Prints one line when it is ready: ready endpoint=HOST:PORT
    node_id=HEX realm=NAME role=ROLE, and behind that with --health: health=HOST:PORT
    """
    with wrong_usage():
        node_config = settled.config()
        require_extra(settled)
        keys = key_files(settled)
        with deferred():  # it may write the key
            who = keys.load(create=True)
    name = settled["name"]

    def reread() -> Identity:
        return keys.load(create=False) if keys.known else who

    is_member = False
    leaving = trio.Event()

    def drain_first() -> bool:
        leaving.set()
        return is_member

    async def work() -> int:
        nonlocal is_member
        async with (
            open_member(node_config, who, name=name) as member,
            open_health(member, settled["health"]) as health,
            trio.open_nursery() as nursery,
        ):
            is_member = True
            await nursery.start(_reload_on_hangup, member, reread)
            facts = {
                "endpoint": member.endpoint,
                "node_id": member.node_id.hex(),
                "realm": node_config.realm,
                "role": node_config.role,
            }
            if health is not None:
                facts["health"] = health
            if as_json:
                print_json(facts if name is None else {**facts, "name": name})
            else:
                say(" ".join(["ready", *(f"{fact}={value}" for fact, value in facts.items())]))
            if node_config.bootstrap and not member.known_nodes():
                warn(name, f"no other node found yet by {', '.join(node_config.bootstrap)}; trying on")
            await leaving.wait()
            await member.drain()
            nursery.cancel_scope.cancel()
        return 0

    return run(work, signalled=0, first=drain_first)


async def _reload_on_hangup(
    member: Node, reread: Callable[[], Identity], *, task_status: trio.TaskStatus[None]
) -> None:
    """SIGHUP, where there is one, makes a node read its files again: its certificate and its trust policy."""
    if not hasattr(signal, "SIGHUP"):
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        task_status.started()
        async for _ in hangups:
            try:
                renewed = reread()
                if renewed.chain != member.identity.chain:
                    member.renew_identity(renewed)
                member.reload_trust()
            except (IdentityFileError, TrustError) as exc:
                note(f"warning: {exc}; what it would have changed stays as it was")
            else:
                note(f"trust: {member.trust.kind} again, {count(len(member.peers()), 'link')} kept")


@cli.command()
@click.argument("file")
@encrypt_option
@key_passphrase_option
@json_option
def keygen(*, file: str, encrypt: bool, key_passphrase_file: str | None, as_json: bool) -> int:
    """Make an identity and write it to FILE, for your eyes only.

    A file that exists is never overwritten. A passphrase that is given encrypts the key, also without --encrypt.
    """
    made = Identity.generate()
    read = ask_passphrase(KEY, key_passphrase_file, new=True) if encrypt else given_passphrase(KEY, key_passphrase_file)
    with wrong_usage(), deferred():
        try:
            made.save(file, password=read)
        except FileExistsError:
            raise ValueError(f"{file}: there is a file already, and keys are not overwritten; name another") from None
    if as_json:
        print_json({"file": file, "node_id": made.node_id.hex()})
    else:
        say(made.node_id.hex())
    return 0


@cli.command()
@click.argument("peer", metavar="HOST:PORT", type=PEER)
@click.option("--count", "times", type=click.IntRange(1, 1000), default=3, show_default=True, help="Round trips.")
@one_shot(bootstrap=False)
def ping(*, peer: Address, times: int, session: Session, as_json: bool) -> int:
    """Ask the node at HOST:PORT who it is; measure round trips."""

    async def work() -> int:
        peers = await resolve(peer)
        async with open_client(session, waits_for=format_endpoint(peer), peers=peers) as member:
            contact, first = await first_success([format_endpoint(one) for one in peers], member.ping_endpoint)
            if not as_json:
                say(f"{contact.endpoint} is {contact.node_id.hex()}")
            trips = [first]
            _tell_trip(1, first, as_json=as_json)
            for number in range(2, times + 1):
                trips.append(await member.ping(contact))
                _tell_trip(number, trips[-1], as_json=as_json)
        if as_json:
            print_json(
                {
                    "endpoint": contact.endpoint,
                    "node_id": contact.node_id.hex(),
                    "seconds": [round(t, 6) for t in trips],
                }
            )
        return 0

    return run(work)


def _tell_trip(number: int, seconds: float, *, as_json: bool) -> None:
    if not as_json:
        say(f"{number:>4}  {milliseconds(seconds)}")


@cli.command()
@click.argument("procedure", type=PROCEDURE)
@click.argument("args", metavar="JSON", type=JSON)
@one_shot()
def call(*, procedure: str, args: object, session: Session, as_json: bool) -> int:
    """Call PROCEDURE with JSON and print what it returns.

    The remaining time of --timeout travels with the call: the handler is cancelled when it is over.
    """

    async def work() -> int:
        async with open_client(session, waits_for=procedure) as member:
            with member.events() as events:
                result = await member.call(procedure, args)
                called = await _facts(events, "rpc.called")
        if as_json:
            print_json({**called, "procedure": procedure, "result": result})
        else:
            say(json_text(result))
            note(f"by {called['provider']} in {count(called['hops'], 'hop')}, {milliseconds(called['seconds'])}")
        return 0

    return run(work)


async def _facts(events: EventStream, name: str) -> Mapping[str, Any]:
    """Facts of the first event of a name; what already happened is in the stream."""
    while True:
        event = await events.receive()
        if event.name == name:
            return event.facts


@cli.command()
@click.argument("topic", type=TOPIC)
@click.argument("payload", metavar="JSON", type=JSON)
@one_shot()
def publish(*, topic: str, payload: object, session: Session, as_json: bool) -> int:
    """Publish JSON on TOPIC to every node that subscribes to it.

    Fails when there are subscribers and none of them could be reached.
    """

    async def work() -> int:
        async with open_client(session, waits_for=topic) as member:
            report = await member.publish(topic, payload)
        outcomes = {node_id.hex(): outcome.value for node_id, outcome in report.outcomes.items()}
        if as_json:
            print_json({"topic": topic, "message_id": report.message_id.hex(), "outcomes": outcomes})
        elif outcomes:
            print_table(["subscriber", "outcome"], ([name[:ID_DIGITS], value] for name, value in outcomes.items()))
        else:
            say(f"nobody subscribes to {topic}")
        lost = report.having(Outcome.UNREACHABLE) + report.having(Outcome.REJECTED)
        if lost and len(lost) == len(outcomes):
            raise click.ClickException(f"none of {count(len(outcomes), 'subscriber')} of {topic} could be reached")
        return 0

    return run(work)


@cli.command()
@click.argument("pattern", type=PATTERN)
@click.option("--count", "limit", type=click.IntRange(1), help="End after so many messages; without end by default.")
@one_shot()
def subscribe(*, pattern: str, limit: int | None, session: Session, as_json: bool) -> int:
    """Print the messages of all topics that match PATTERN, one line each, until interrupted.

    PATTERN is a topic, or has wildcards for whole segments: `*` for one, `**` or `#` for any number, as in
    'sensors.*.celsius'. Quote it, or the shell reads `*` and `#` itself.

    Says `subscribed PATTERN` on stderr as soon as publishers can find it. --timeout bounds the way there, not the
    waiting for messages.
    """

    async def work() -> int:
        async with open_client(session, waits_for=pattern, bounded=False) as member, AsyncExitStack() as stack:
            with trio.fail_after(session.timeout_s):
                messages = await stack.enter_async_context(member.subscribe(pattern))
            note(f"subscribed {pattern}")
            received = 0
            async for message in messages:
                _tell_message(message, as_json=as_json)
                received += 1
                if received == limit:
                    break
        return 0

    return run(work)


def _tell_message(message: Message, *, as_json: bool) -> None:
    if not as_json:
        say(f"{message.topic} {json_text(message.payload)}")
        return
    print_json(
        {
            "topic": message.topic,
            "payload": message.payload,
            "publisher": message.publisher,
            "via": message.via,
            "sequence": message.sequence,
            "headers": message.headers,
        }
    )
