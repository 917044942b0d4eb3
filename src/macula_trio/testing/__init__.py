"""Tools for tests of Trio applications on a mesh: simulated networks, whole meshes on them, and runs that repeat.

The names are loaded when the first of them is asked for, as those of `macula_trio` are.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from macula_trio.testing._public import *
else:  # hidden from type checkers, who would take it for a promise of any name

    def __getattr__(name: str) -> object:
        # What asks every module for odd names, such as pytest and inspect, must not load everything.
        if not name.startswith("_") or name == "__all__":
            import macula_trio.testing._public as public

            globals().update({public_name: vars(public)[public_name] for public_name in ("__all__", *public.__all__)})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *globals()})
