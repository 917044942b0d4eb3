"""Runs one command in Trio: signals end it cleanly, and its errors become one line and an exit code."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from math import inf
from typing import Final

import click
import trio

from macula_trio import Event, Identity, MeshError, Node, NodeConfig, open_node
from macula_trio._addresses import with_route
from macula_trio._cli.advice import Adviser
from macula_trio._cli.logs import logs_in_lines
from macula_trio._cli.options import Session
from macula_trio._cli.output import note
from macula_trio._cli.signals import SIGNALS, leave
from macula_trio._net.udp import UdpNetwork
from macula_trio._util import Address, parse_bootstrap

_MENDS: Final = {
    errno.EADDRINUSE: "; choose another by {flag} HOST:PORT, port 0 takes a free one",
    errno.EADDRNOTAVAIL: "; {flag} takes an address of this machine, or 0.0.0.0 for all of them, [::] with IPv6",
    errno.EACCES: "; choose another port by {flag} HOST:PORT",
    errno.EAFNOSUPPORT: "; {flag} takes an IPv4 address, or 0.0.0.0 for all of them",
    errno.ENODEV: "; {flag} takes an interface of this machine, by name or number, such as [fe80::1%eth0]:9443",
}
_NAME_MEND: Final = "; check how it is spelled, or write the address itself"


def run(
    work: Callable[[], Awaitable[int]],
    *,
    signalled: int | None = None,
    first: Callable[[], bool] | None = None,
    hurry: Callable[[], None] | None = None,
) -> int:
    """Run a command and give its exit code.

    Args:
      work: cancelled by SIGINT and SIGTERM, so that every block in it is left properly.
      first: called for the first signal; when it says so ``work`` ends by itself, and only the next one cancels it.
      signalled: exit code after a signal; 128 and the signal's number by default.
      hurry: called for every further signal while ``work`` is still leaving; by default that one ends the process at
        once, which is not for those who have children or files to clear away.

    Raises:
      click.ClickException: the command failed; its message is one line.
    """
    with logs_in_lines():
        code, number, error = trio.run(_until_signalled, work, first, hurry)
    if error is not None:
        raise error
    if number is None:
        return code
    return 128 + number if signalled is None else signalled


async def _until_signalled(
    work: Callable[[], Awaitable[int]], first: Callable[[], bool] | None, hurry: Callable[[], None] | None
) -> tuple[int, int | None, click.ClickException | None]:
    code, number = 0, None
    error: click.ClickException | None = None
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            working = trio.CancelScope()

            async def watch() -> None:
                nonlocal number
                async for received in signals:
                    is_first, number = number is None, number or received
                    if is_first and first is not None and first():
                        continue
                    if not working.cancel_called:
                        working.cancel()
                    elif hurry is None:
                        leave(received)
                    else:
                        hurry()

            nursery.start_soon(watch)
            with working:
                try:
                    with failures():
                        code = await work()
                except click.ClickException as exc:
                    error = exc  # raised where no nursery wraps it
                except BrokenPipeError:
                    code = 1  # nobody is there to be told
            nursery.cancel_scope.cancel()
    return code, number, error


@contextmanager
def failures() -> Generator[None, None, None]:
    """Turn what can go wrong in an operation into one line and exit code 1."""
    try:
        yield
    except BrokenPipeError:
        raise  # who read our output is gone
    except OSError as exc:
        raise click.ClickException(exc.strerror or str(exc)) from exc
    except (MeshError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


@contextmanager
def listening(flag: str = "--listen") -> Generator[None, None, None]:
    """Turn an address that cannot be listened on, or a name that does not resolve, into exit code 2.

    Args:
      flag: which tells the address.
    """
    try:
        yield
    except OSError as exc:
        mend = _NAME_MEND if isinstance(exc, socket.gaierror) else _MENDS.get(exc.errno or 0, "").format(flag=flag)
        raise click.UsageError(f"{exc.strerror or exc}{mend}") from exc
    except ValueError as exc:  # a host that cannot be a name, such as one with a label of 100 letters
        raise click.UsageError(str(exc)) from exc


@asynccontextmanager
async def open_member(config: NodeConfig, identity: Identity, *, name: str | None = None) -> AsyncGenerator[Node, None]:
    """`open_node` for commands: a bad address is wrong usage.

    Args:
      config: of the node.
      identity: of the node.
      name: that people have for it, for warnings.
    """
    if config.trust.kind == "unverified":
        warn(name, "--trust unverified talks to nodes that prove nothing; for closed networks only")
    adviser = Adviser(joins=not config.require_bootstrap)

    def listen(event: Event) -> None:
        advice = adviser.advise(event)
        if advice is not None:
            warn(name, advice)

    async with AsyncExitStack() as stack:
        with listening():
            node = await stack.enter_async_context(open_node(config, identity=identity, listener=listen))
        yield node


def warn(name: str | None, text: str) -> None:
    """Warn whoever runs a node, which may have a name."""
    note(f"warning: {text}" if name is None else f"warning: {name}: {text}")


@asynccontextmanager
async def open_client(
    session: Session, *, waits_for: str, peers: Sequence[Address] | None = None, bounded: bool = True
) -> AsyncGenerator[Node, None]:
    """Join for the length of one command.

    Args:
      session: the command's options.
      waits_for: whose answer it is that may come too late, for the complaint.
      peers: whom the command will dial, numeric; the bootstrap nodes by default.
      bounded: whether ``--timeout`` ends the block, or only the joining.

    Raises:
      click.ClickException: the time is over.
    """
    deadline = trio.current_time() + session.timeout_s
    identity = session.load_identity()
    if peers is None:
        peers = await resolve(*(parse_bootstrap(entry)[1] for entry in session.bootstrap))
    async with open_member(session.config(peers=peers), identity) as node:
        with trio.CancelScope(deadline=deadline if bounded else inf) as scope:
            await trio.lowlevel.checkpoint()  # joining may have taken all the time that there was
            yield node
        if scope.cancelled_caught:
            raise click.ClickException(
                f"{waits_for}: no answer within {session.timeout_s:g} s; --timeout SECONDS gives more"
            )


async def resolve(*addresses: Address) -> list[Address]:
    """Ask the system for the numeric addresses that some stand for; when none has one, that is wrong usage.

    Of several, those without a route are left out.
    """
    network = UdpNetwork()
    found: list[Address] = []
    failure: OSError | None = None
    for host, port in addresses:
        try:
            found += [(numeric, port) for numeric in await network.resolve(host)]
        except OSError as exc:
            failure = failure or exc
    if failure is not None and not found:
        with listening():
            raise failure
    return with_route(network, found)
