"""macula_trio: a peer-to-peer mesh for Trio.

`open_node` is where to begin.  Every name here is public and fixed by the design; `macula_trio.wire` is for people who
write another peer, `macula_trio.testing` for those who test applications.

The names are loaded when the first of them is asked for (PEP 562): pytest imports this package in every run, for the
sake of the plugin in it, and must not meet Trio and OpenSSL each time.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from macula_trio import testing as testing
    from macula_trio import wire as wire
    from macula_trio._public import *
else:  # hidden from type checkers, who would take it for a promise of any name

    def __getattr__(name: str) -> object:
        if name == "testing":
            import macula_trio.testing  # which binds the name here
        elif name == "wire":
            import macula_trio.wire  # noqa: F401 - likewise
        # What asks every module for odd names, such as pytest and inspect, must not load everything.
        elif not name.startswith("_") or name == "__all__":
            import macula_trio._public as public

            globals().update({public_name: vars(public)[public_name] for public_name in ("__all__", *public.__all__)})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), "testing", "wire", *globals()})


__version__ = _version("macula-trio")
