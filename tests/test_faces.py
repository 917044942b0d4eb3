"""The public faces load late, and nobody notices: importing the package, as pytest does in every run, is cheap."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

pytestmark = pytest.mark.thorough

HEAVY: Final = ("aioquic", "attr", "attrs", "cryptography", "msgpack", "OpenSSL", "trio")


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import macula_trio; macula_trio.__version__",
        "import macula_trio.testing.pytest_plugin",
        "import macula_trio.testing; assert not hasattr(macula_trio.testing, '__wrapped__')",
        "import macula_trio; assert not hasattr(macula_trio, '_public')",
        "import macula_trio; assert macula_trio.testing.__name__ == 'macula_trio.testing'",
        "import inspect, macula_trio; inspect.getmodule(inspect.unwrap(macula_trio))",
    ],
)
def test_importing_the_package_loads_nothing(code: str) -> None:
    assert _python(f"{code}\nimport sys; print(sorted({set(HEAVY)!r} & sys.modules.keys()))").strip() == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "from macula_trio import NodeConfig, open_node",
        "import macula_trio as macula; macula.open_node; macula.MeshError",
        "import macula_trio; assert macula_trio.errors.MeshError is macula_trio.MeshError",
        "import macula_trio; macula_trio.wire.decode_frame; macula_trio.testing.open_mesh",
        "import macula_trio; assert {'testing', 'wire'} < set(dir(macula_trio))",
        "from macula_trio import *; open_node; NodeConfig",
        "import macula_trio; assert {'open_node', 'Record', '__version__'} < set(dir(macula_trio))",
        "import macula_trio; macula_trio.Node; assert 'Node' in vars(macula_trio)",
        "from macula_trio.testing import *; SimNetwork; open_mesh; run_seeded",
        "import macula_trio.testing; assert {'World', 'open_mesh'} < set(dir(macula_trio.testing))",
        "import macula_trio.testing as t; import macula_trio; t.SimNetwork; macula_trio.testing.replay",
    ],
)
def test_the_names_are_there_when_they_are_asked_for(code: str) -> None:
    _python(code)


@pytest.mark.parametrize("module", ["macula_trio", "macula_trio.testing"])
@pytest.mark.parametrize("name", ["nothing", "_nothing"])
def test_a_name_that_is_not_there_is_refused_as_usual(module: str, name: str) -> None:
    text = _python(
        f"import {module} as m\ntry:\n    m.{name}\nexcept AttributeError as exc:\n    print(exc)\n"
        f"try:\n    from {module} import {name}\nexcept ImportError as exc:\n    print(exc)"
    )
    first, second = text.splitlines()
    assert first == f"module {module!r} has no attribute {name!r}"
    assert second.startswith(f"cannot import name {name!r} from {module!r}")
