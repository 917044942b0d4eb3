"""``python -m macula_trio`` is ``macula-trio``."""

from __future__ import annotations

import sys

from macula_trio._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
