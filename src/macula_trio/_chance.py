"""Where chance comes from: the only file besides ``testing/`` that creates randomness (DESIGN section 3).

Everything else receives it.  The system's entropy is asked from Python's side, where a replay can have its own.
"""

from __future__ import annotations

import os
import random
from typing import Final

from macula_trio._identity.files import Identity

INSTANCE_BYTES: Final = 16
SEED_BYTES: Final = 32  # an Ed25519 private key is 32 random bytes (RFC 8032, section 5.1.5)


def random_bytes(count: int) -> bytes:
    """Of the system: for keys and ids."""
    return os.urandom(count)


def new_generator() -> random.Random:
    """For jitter and choice among providers."""
    return random.Random(random_bytes(32))


def new_instance() -> bytes:
    """Tells one run of a node from the next."""
    return random_bytes(INSTANCE_BYTES)


def new_identity() -> Identity:
    """As `Identity.generate`."""
    return Identity.from_seed(random_bytes(SEED_BYTES))
