"""The entry ``macula-trio``: every error that can be foreseen becomes one line on stderr and an exit code.

0: done.  1: the operation failed.  2: wrong usage.  130: interrupted.  143: terminated.  Imports click only when
called, so that a missing extra is one line as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from macula_trio._cli import signals

EXIT_USAGE: Final = 2
MESSAGE_MAX: Final = 1000  # characters of a complaint; ours are shorter, unless they quote
_EXTRA: Final = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    Args:
      arguments: without the name of the program; those of the process by default.
    """
    alone = arguments is None  # nobody else's signals are here
    if alone:
        signals.leave_at_once()
    try:
        return _flush(_run(arguments))
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('error: the command line is an extra; install it: pip install "macula-trio[cli]"', file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:  # before or after the event loop, which has its own way
        return signals.exit_code()
    finally:
        if alone:
            signals.leave_at_once()


def _flush(code: int) -> int:
    """Find out here, and not at the interpreter's exit, that nobody reads what is left of our output."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its exit, and would turn our exit code into 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    import click  # noqa: PLC0415 - see above

    from macula_trio._cli.commands import cli  # noqa: PLC0415
    from macula_trio._cli.output import one_line  # noqa: PLC0415

    if arguments is None:
        signals.interrupt()
    try:
        return cli.main(args=arguments, prog_name="macula-trio", standalone_mode=False) or 0
    except click.ClickException as exc:
        if isinstance(exc, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 and later
            exc.show()
            return exc.exit_code
        context = getattr(exc, "ctx", None)
        hint = f"; see {context.command_path} --help" if context is not None else ""
        message = one_line(exc.format_message())
        if len(message) > MESSAGE_MAX:  # it quotes what somebody wrote, at any length
            message = f"{message[:MESSAGE_MAX]}..."
        print(f"error: {message.rstrip('.')}{hint}", file=sys.stderr)
        return exc.exit_code
    except click.Abort:  # click's word for Ctrl-C
        return signals.exit_code()
