"""Nothing that only some systems have is needed to import the package; what was not run elsewhere, the docs say."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

pytestmark = pytest.mark.thorough

# The libraries below us choose by system themselves, so they are here before the system becomes another one.
ELSEWHERE: Final = """
import asyncio, importlib, importlib.metadata, os, pkgutil, signal, socket, sys
import aioquic.quic.connection, click, distributed, OpenSSL.SSL, pytest, rich.console, rich.table, service_identity
import trio.testing

for module in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[module] = None  # as where it does not exist
LACKING = {
    os: ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork", "geteuid", "getuid", "killpg",
         "mkfifo", "posix_spawn", "sched_getaffinity", "setsid", "uname"),
    signal: ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGWINCH", "alarm", "pthread_sigmask", "setitimer"),
    socket: ("AF_UNIX", "CMSG_LEN", "CMSG_SPACE", "IP_PKTINFO", "IPV6_RECVPKTINFO", "IPV6_PKTINFO", "IP_MTU_DISCOVER",
             "MSG_DONTWAIT", "MSG_ERRQUEUE", "SO_REUSEPORT"),
}
for module, names in LACKING.items():
    for name in names:
        vars(module).pop(name, None)
for method in ("recvmsg", "recvmsg_into", "sendmsg"):
    setattr(socket.socket, method, property())  # the C base has them; here asking for one is an AttributeError
sys.platform = "win32"

import macula_trio
found = [module.name for module in pkgutil.walk_packages(macula_trio.__path__, "macula_trio.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(found))
"""


def test_every_module_can_be_imported_where_posix_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) > 100
