"""Arrows point only down: the layers of the design, enforced on the syntax tree of every module.

The ranks of the files are `[tool.macula-trio.layers]` in pyproject.toml.  What a module *uses* is every
dotted name that it imports, or reaches through an import (``trio.lowlevel.Task``, also when ``trio`` got
another name); imports inside functions and under TYPE_CHECKING count like all others.
"""

from __future__ import annotations

import ast
import shutil
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.thorough

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "macula_trio"
MODULES: Final = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LAYERS: Final[dict[str, list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "macula-trio"
]["layers"]
ORDER: Final = list(LAYERS)

# A core gets bytes, facts and `now`; whoever calls it owns clock, randomness and sockets.
IMPURE: Final = {
    "aioquic",
    "asyncio",
    "logging",
    "os",
    "random",
    "secrets",
    "select",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
    "uuid",
}
# A thread breaks replay: virtual time jumps while it works.
THREADS: Final = {
    "_thread",
    "asyncio",
    "concurrent",
    "multiprocessing",
    "threading",
    "trio.from_thread",
    "trio.to_thread",
}
WALL_CLOCKS: Final = {
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "time.ctime",
    "time.gmtime",
    "time.localtime",
    "time.time",
    "time.time_ns",
}
CHANCE: Final = {"os.getrandom", "os.urandom", "random", "secrets", "uuid.uuid1", "uuid.uuid4"}
BROAD: Final = {"Exception", "BaseException"}

# Who alone may use a name (or anything below it).
ONLY_IN: Final = {
    "aioquic": (
        "_net/connection.py",
        "_net/credit.py",
        "_net/inner.py",
        "_net/greeting.py",
        "_net/quic.py",
        "_net/tls.py",
        "testing/_determinism.py",
    ),
    "msgpack": ("_wire/codec.py",),
    **dict.fromkeys(CHANCE, ("_chance.py", "testing/*")),
    # The datagram network is where a node gets the wall clock from; the real one reads it.
    **dict.fromkeys(WALL_CLOCKS, ("_net/udp.py", "testing/*")),
    # The import system hides from this test what it brings; the plugin may name modules at run time.
    **dict.fromkeys(["__import__", "builtins.__import__", "importlib.import_module"], ("testing/*",)),
}
# Private parts of Trio and aioquic: what replays need, and the one thing without which a stranger takes all memory.
PRIVATE_IN: Final = ("_net/credit.py", "_net/inner.py", "testing/_determinism.py")
BROAD_EXCEPT_IN: Final = {
    # _authorisation.py and _identity/trust.py ask rules of the application, _rpc/callee.py runs handlers of it.
    "Exception": (
        "_authorisation.py",
        "_cli/*",
        "_identity/trust.py",
        "_net/quic.py",
        "_rpc/callee.py",
        "testing/_scenario.py",
    ),
    # _background.py tells a body's error from those of the nursery that its block hides.
    "BaseException": ("_background.py", "_cli/*", "_net/quic.py", "_rpc/callee.py"),
}
THREADS_IN: Final = ("_store/sqlite.py",)  # SQLite blocks
FACES: Final = {"__init__.py", "_public.py", "testing/__init__.py", "testing/_public.py", "wire.py"}
DOORS: Final = {("__init__.py", "macula_trio.testing")}  # a face offers another one; it loads when it is asked for
LAZY: Final = {"__dir__", "__getattr__"}  # what a face that loads late consists of


def _listed(module: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def _below(name: str, prefixes: set[str]) -> bool:
    """Whether ``name`` is one of the dotted prefixes, or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.endswith("__")


def _is_private_package(module: str) -> bool:
    path = PurePosixPath(module)
    return path.name == "__init__.py" and path.parent.name.startswith("_")


def layer_of(module: str) -> str:
    """Name of the layer of ``_wire/frame.py`` and the like.

    Raises:
      LookupError: the table has no entry for it, or more than one.
    """
    if _is_private_package(module):
        return ORDER[0]
    found = [layer for layer, patterns in LAYERS.items() if _listed(module, patterns)]
    if len(found) != 1:
        raise LookupError(f"{module} is in {len(found)} layers of pyproject.toml; give it one")
    return found[0]


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, or reached through an import or a builtin."""
    bound: dict[str, str] = {"__import__": "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                bound[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
                bound[alias.asname or alias.name] = f"{base}.{alias.name}"
    yield from _reached(tree, bound)


def _reached(node: ast.AST, bound: dict[str, str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, (ast.Attribute, ast.Name)) and (name := _resolve(node, bound)):
        yield node.lineno, name  # the whole of ``a.b.c``; its ``a`` alone says nothing
        return
    for child in ast.iter_child_nodes(node):
        yield from _reached(child, bound)


def _resolve(node: ast.expr, bound: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute) and (base := _resolve(node.value, bound)):
        return f"{base}.{node.attr}"
    return None


def target_of(name: str, root: Path) -> str | None:
    """The file that ``macula_trio.a.b`` names: the module itself, or the one that holds ``b``."""
    parts = name.split(".")
    if parts[0] != "macula_trio":
        return None
    for end in range(len(parts), 0, -1):
        path = root.joinpath(*parts[1:end])
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file() and candidate.is_relative_to(root):
                return candidate.relative_to(root).as_posix()
    return None


def violations(module: str, root: Path = PACKAGE) -> list[str]:
    """One line for each rule that ``module`` (relative to ``root``) breaks, with the line number."""
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    layer = layer_of(module)
    found = [
        *(problem for line, name in uses(tree) for problem in _use_problems(module, layer, line, name)),
        *_arrow_problems(module, layer, tree, root),
        *_quic_problems(module, tree),
        *_catch_problems(module, tree),
        *_face_problems(module, tree),
    ]
    return list(dict.fromkeys(f"{module}:{problem}" for problem in found))


def _use_problems(module: str, layer: str, line: int, name: str) -> Iterator[str]:
    if name.startswith("."):
        yield f"{line}: a relative import; write it absolutely"
    if layer in {"L0", "L1"} and _below(name, IMPURE):
        yield f"{line}: {layer} is sans-IO and must not use {name}"
    if layer in ORDER[: ORDER.index("L5") + 1] and _below(name, THREADS) and not _listed(module, THREADS_IN):
        yield f"{line}: no threads and no asyncio in {layer}: {name}"
    for owned, owners in ONLY_IN.items():
        if _below(name, {owned}) and not _listed(module, owners):
            yield f"{line}: {name} belongs to {', '.join(owners)}"
    root, *rest = name.split(".")
    if root in {"aioquic", "trio"} and any(_is_private(part) for part in rest) and module not in PRIVATE_IN:
        yield f"{line}: {name} is a private part of {root}"
    if name.endswith(".spawn_system_task"):
        yield f"{line}: a system task belongs to nobody; use a nursery"


def _arrow_problems(module: str, layer: str, tree: ast.Module, root: Path) -> Iterator[str]:
    for line, name in uses(tree):
        target = target_of(name, root)
        if target is None or target == module:
            continue
        modules = [part for part in PurePosixPath(target).with_suffix("").parts if part != "__init__"]
        if any(_is_private(part) for part in name.split(".")[len(modules) + 1 :]):
            yield f"{line}: {name} is private to {target}"
        below = layer_of(target)
        if ORDER.index(below) > ORDER.index(layer) and (module, name) not in DOORS:
            yield f"{line}: {layer} must not import {target}, which is {below}"
        elif layer == below == "L4" and PurePosixPath(target).parent != PurePosixPath(module).parent:
            yield f"{line}: services never import each other: {target}"


def _quic_problems(module: str, tree: ast.Module) -> Iterator[str]:
    """Private attributes of connections, which no import shows: what is called ``quic`` is aioquic's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and module not in PRIVATE_IN:
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner.lstrip("_") == "quic":
                yield f"{node.lineno}: {ast.unparse(node)} is a private part of aioquic"


def _catch_problems(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = (
                {"BaseException"}
                if node.type is None
                else {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = {n.id for argument in node.args for n in ast.walk(argument) if isinstance(n, ast.Name)}
        else:
            continue
        for name in sorted(caught & BROAD):
            if not _listed(module, BROAD_EXCEPT_IN[name]):
                yield f"{node.lineno}: catches {name}; name what can happen"


def _face_problems(module: str, tree: ast.Module) -> Iterator[str]:
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    if _is_private_package(module):
        yield from (f"{node.lineno}: {module} must be empty apart from its docstring" for node in body)
    elif module in FACES:
        for node in body:
            if not (_imports(node) or _binds_dunder(node) or _loads_late(node)):
                yield f"{node.lineno}: a public face only re-exports"


def _imports(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _loads_late(node: ast.stmt) -> bool:
    """``if TYPE_CHECKING:`` with imports, ``else:`` with the functions of PEP 562."""
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "TYPE_CHECKING"
        and all(_imports(child) for child in node.body)
        and all(isinstance(child, ast.FunctionDef) and child.name in LAZY for child in node.orelse)
    )


def _binds_dunder(node: ast.stmt) -> bool:
    """``__all__ = [...]`` or ``__version__ = ...``, annotated or not."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return bool(names) and all(name.startswith("__") and name.endswith("__") for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_its_layer(module: str) -> None:
    assert violations(module) == []


@pytest.mark.parametrize("patterns", LAYERS.values(), ids=ORDER)
def test_no_entry_of_the_table_is_a_slip(patterns: list[str]) -> None:
    # Files arrive with the change that needs them, so an entry may name none yet; but it names a file.
    assert all(pattern.endswith((".py", "/*")) for pattern in patterns)
    assert len(set(patterns)) == len(patterns)


# What is planted, where, and a piece of the complaint that must follow.
PLANTED: Final = [
    ("_dht/lookup.py", "import trio", "sans-IO"),
    ("_dht/lookup.py", "def late():\n    import time", "sans-IO"),
    ("_wire/frame.py", "import aioquic.quic.connection", "sans-IO"),
    ("_wire/frame.py", "if TYPE_CHECKING:\n    from trio import Event", "sans-IO"),
    *(("errors.py", f"import {name}", "sans-IO") for name in sorted(IMPURE)),
    *(("_peer/handshake.py", f"from {name} import anything", "sans-IO") for name in sorted(IMPURE)),
    ("_ids.py", "from macula_trio._wire.frame import Frame", "L0 must not import _wire/frame.py, which is L1"),
    ("_ids.py", "from macula_trio._wire import frame", "L0 must not import _wire/frame.py"),
    ("_ids.py", "import macula_trio._wire.frame as f", "L0 must not import _wire/frame.py"),
    ("_ids.py", "import macula_trio\nmacula_trio._wire.frame.Frame", "L0 must not import _wire/frame.py"),
    ("_wire/frame.py", "if TYPE_CHECKING:\n    from macula_trio._net.udp import UdpNetwork", "which is L2"),
    ("_net/udp.py", "from macula_trio._peer.link import Link", "which is L3"),
    ("_peer/link.py", "from macula_trio._rpc.service import Calls", "which is L4"),
    ("_dht/service.py", "from macula_trio._node import Node", "which is L5"),
    ("_node.py", "from macula_trio import Node", "L5 must not import __init__.py"),
    ("__init__.py", "from macula_trio._cli.main import main", "face must not import _cli/main.py"),
    ("_node.py", "from macula_trio.testing import SimNetwork", "which is L6"),
    ("_node.py", "import macula_trio.testing", "which is L6"),
    ("__init__.py", "from macula_trio.testing import SimNetwork", "face must not import testing/__init__.py"),
    ("__init__.py", "import macula_trio.testing.network", "face must not import testing/network.py"),
    ("_dht/service.py", "from macula_trio._rpc.service import Calls", "services never import each other"),
    ("_pubsub/service.py", "import macula_trio._dht.service", "services never import each other"),
    ("_rpc/service.py", "from macula_trio._dht.advertiser import Advertiser", "services never import each other"),
    ("_dht/lookup.py", "from .table import Table", "relative import"),
    ("_peer/link.py", "from aioquic.quic.events import QuicEvent", "belongs to _net/connection.py, _net/credit.py"),
    ("_cli/main.py", "import aioquic", "belongs to _net/connection.py, _net/credit.py"),
    ("_wire/messages.py", "import msgpack", "belongs to _wire/codec.py"),
    ("_rpc/service.py", "import threading", "no threads"),
    ("_node.py", "from concurrent.futures import ThreadPoolExecutor", "no threads"),
    ("_identity/files.py", "import trio\ntrio.to_thread.run_sync(print)", "no threads"),
    ("_identity/files.py", "from trio import to_thread", "no threads"),
    ("_net/quic.py", "from trio._core import _run", "private part of trio"),
    ("_net/quic.py", "import trio\nasync def f():\n    trio._core.current_task()", "private part of trio"),
    ("_net/quic.py", "import trio as t\nt.lowlevel._hidden", "private part of trio"),
    ("_net/quic.py", "from aioquic.quic import _crypto", "private part of aioquic"),
    ("testing/network.py", "import trio._core._run", "private part of trio"),
    ("_net/quic.py", "class C:\n    def f(self):\n        return self._quic._loss", "private part of aioquic"),
    ("_net/quic.py", "def f(quic):\n    return quic._streams", "private part of aioquic"),
    ("_node.py", "from macula_trio._wire.frame import _HEADER", "private to _wire/frame.py"),
    ("testing/network.py", "from macula_trio import _secret", "private to __init__.py"),
    ("_peer/link.py", "import random", "belongs to _chance.py"),
    ("_peer/link.py", "import os\nos.urandom(16)", "belongs to _chance.py"),
    ("_peer/link.py", "from os import urandom as entropy", "belongs to _chance.py"),
    ("_rpc/service.py", "from uuid import uuid4", "belongs to _chance.py"),
    ("_rpc/service.py", "import time\ntime.time()", "belongs to _net/udp.py"),
    ("_rpc/service.py", "from time import time_ns", "belongs to _net/udp.py"),
    ("_identity/files.py", "import datetime as dt\ndt.datetime.now(dt.UTC)", "belongs to _net/udp.py"),
    ("_identity/files.py", "from datetime import datetime\ndatetime.utcnow()", "belongs to _net/udp.py"),
    ("_cli/main.py", "import importlib\nimportlib.import_module('trio')", "belongs to testing/*"),
    ("_dht/lookup.py", "__import__('trio')", "belongs to testing/*"),
    ("_node.py", "import trio\ntrio.lowlevel.spawn_system_task(f)", "a system task belongs to nobody"),
    ("_node.py", "from trio.lowlevel import spawn_system_task", "a system task belongs to nobody"),
    ("_node.py", "try:\n    f()\nexcept Exception:\n    pass", "catches Exception"),
    ("_peer/link.py", "try:\n    f()\nexcept:\n    pass", "catches BaseException"),
    ("_peer/link.py", "try:\n    f()\nexcept (OSError, BaseException):\n    pass", "catches BaseException"),
    ("testing/network.py", "try:\n    f()\nexcept* Exception:\n    pass", "catches Exception"),
    ("_wire/codec.py", "from contextlib import suppress\nwith suppress(Exception):\n    f()", "catches Exception"),
    ("_wire/__init__.py", "VERSION = 1", "must be empty"),
    ("_cli/__init__.py", "from macula_trio._cli.main import main", "must be empty"),
    ("wire.py", "def encode_frame():\n    pass", "only re-exports"),
    ("__init__.py", "DEFAULT = 1", "only re-exports"),
    ("__init__.py", "if TYPE_CHECKING:\n    DEFAULT = 1", "only re-exports"),
    ("__init__.py", "if TYPE_CHECKING:\n    import trio\nelse:\n    def work(): pass", "only re-exports"),
    ("__init__.py", "if DEBUG:\n    import trio", "only re-exports"),
    ("__init__.py", "def __getattr__(name): pass", "only re-exports"),  # type checkers would believe in any name
    ("_public.py", "DEFAULT = 1", "only re-exports"),
    ("testing/__init__.py", "DEFAULT = 1", "only re-exports"),
    ("testing/_public.py", "def open_mesh(): pass", "only re-exports"),
    ("_node.py", "from macula_trio._public import Node", "L5 must not import _public.py"),
]

# The same things where they are right.
ALLOWED: Final = [
    ("_wire/codec.py", "import msgpack"),
    ("_net/quic.py", "import aioquic\nimport trio\ntry:\n    f()\nexcept Exception:\n    pass"),
    ("_net/udp.py", "import time\ntime.time_ns()\ntime.perf_counter()"),
    ("_chance.py", "import random, os\nos.urandom(16)"),
    ("_background.py", "try:\n    f()\nexcept BaseException:\n    raise"),
    ("_peer/link.py", "import os\nos.path.join\nimport time\ntime.monotonic()"),
    ("_rpc/callee.py", "try:\n    f()\nexcept Exception:\n    pass"),
    ("_store/sqlite.py", "import sqlite3, trio\ntrio.to_thread.run_sync(f)"),
    ("_cli/main.py", "import asyncio\nimport macula_trio\nmacula_trio.open_node"),
    ("testing/_determinism.py", "def f(quic):\n    return quic._streams"),
    ("testing/_determinism.py", "from trio._core import _run\nimport aioquic.quic.connection\nimport random"),
    ("_node.py", "from macula_trio._dht.service import Dht\nfrom macula_trio._rpc.service import Calls"),
    ("_dht/service.py", "from macula_trio._dht.advertiser import Advertiser"),
    ("_dht/service.py", "import macula_trio._ids\nmacula_trio._ids.NodeId"),
    ("_dht/service.py", "from macula_trio._dht.lookup import Lookup\nfrom macula_trio import _ids"),
    ("_wire/codec.py", "import datetime as dt\ndt.datetime(2020, 1, 1, tzinfo=dt.UTC)"),
    ("__init__.py", "if TYPE_CHECKING:\n    import trio\nelse:\n    def __getattr__(name):\n        import trio"),
    ("__init__.py", "from macula_trio._node import Node as Node\n__all__ = ['Node']\n__version__: str = version('x')"),
]

EXTRA: Final = [
    "_dht/advertiser.py",
    "_wire/frame.py",
    "_dht/table.py",
    "testing/__init__.py",
]  # imported there, never planted into


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which every file that a planted line speaks of exists."""
    root = tmp_path_factory.mktemp("planted") / "macula_trio"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__"))
    for module in [*(module for module, *_ in (*PLANTED, *ALLOWED)), *EXTRA]:
        path = root / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _plant(root: Path, module: str, code: str) -> list[str]:
    """What ``module`` is blamed for while ``code`` stands in the place of its text."""
    before = (root / module).read_text(encoding="utf-8")
    (root / module).write_text(f'"""A rule."""\n{code}\n', encoding="utf-8")
    try:
        return violations(module, root)
    finally:
        (root / module).write_text(before, encoding="utf-8")


@pytest.mark.parametrize(("module", "code", "complaint"), PLANTED)
def test_what_is_forbidden_is_seen_where_it_is_planted(tree: Path, module: str, code: str, complaint: str) -> None:
    assert any(complaint in problem for problem in _plant(tree, module, code))


@pytest.mark.parametrize(("module", "code"), ALLOWED)
def test_the_same_is_allowed_in_its_own_room(tree: Path, module: str, code: str) -> None:
    assert _plant(tree, module, code) == []


@pytest.mark.parametrize("module", ["_dht/gossip.py", "new.py", "_new/room.py"])
def test_a_module_without_a_layer_is_refused(tree: Path, module: str) -> None:
    with pytest.raises(LookupError, match="0 layers"):
        layer_of(module)
    (tree / module).parent.mkdir(exist_ok=True)
    (tree / module).touch()
    with pytest.raises(LookupError, match="0 layers"):
        _plant(tree, "_ids.py", f"import macula_trio.{module[:-3].replace('/', '.')}")
