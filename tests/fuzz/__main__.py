"""Run one fuzz target for a while: ``python tests/fuzz frames --seconds 60``; needs atheris, which ``nox -s fuzz`` has.

What is found is written to a file, and the command that tries that file again is printed; trying it needs no atheris.
An input that hangs, or takes all memory, is found by the fuzzer itself: its file has ``raw`` in its name.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import os
import pkgutil
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the targets, and quic_tools

INPUT_BYTES_MAX: Final = 16_384  # several frames or a chain of certificates; longer ones only cost time
ONE_INPUT_S: Final = 20  # an input that takes longer hangs
MEMORY_MB: Final = 2048


class Campaign:
    """One run of one target."""

    def __init__(self, name: str, findings: Path) -> None:
        fuzz_tools = importlib.import_module("fuzz_tools")
        self._atheris = importlib.import_module("atheris")
        self._name = name
        self._findings = findings
        self._target = fuzz_tools.target(name)
        self._seeds = self._target.seeds()
        self._executions = 0

    def try_one(self, data: bytes) -> None:
        """What the fuzzer calls."""
        if time.monotonic() >= self._end:
            self._stop()
        self._executions += 1
        try:
            self._target.fuzz_one(data)
        except BaseException:  # a KeyboardInterrupt is one to us as well, but no finding
            if not isinstance(sys.exception(), KeyboardInterrupt):
                self._keep(data)
            raise

    def _keep(self, data: bytes) -> None:
        self._findings.mkdir(parents=True, exist_ok=True)
        path = self._findings / f"{self._name}-{hashlib.sha256(data).hexdigest()[:16]}"
        path.write_bytes(data)
        print(f"{self._name}: found something after {self._executions} executions", flush=True)
        print(f"try it again:  python {HERE} {self._name} --again {path}", flush=True)

    def vary(self, data: bytes, max_size: int, seed: int) -> bytes:
        """A mutation by the target, or by the fuzzer itself."""
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return self._atheris.Mutate(data, max_size)  # another function than before the fuzzer began
        return self._target.vary(data, self._seeds, chance)[:max_size]

    def run(self, seconds: int, seed: int) -> None:
        """Fuzz; does not return."""
        atheris = self._atheris
        self._corpus = corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{self._name}-"))
        for data in self._seeds:
            (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        self._end = time.monotonic() + seconds
        arguments = {
            "max_total_time": seconds + ONE_INPUT_S,  # `_stop` is sooner
            "max_len": INPUT_BYTES_MAX,
            "timeout": ONE_INPUT_S,
            "rss_limit_mb": MEMORY_MB,
            "artifact_prefix": f"{self._findings}/{self._name}-raw-",
            "print_final_stats": 0,
            "verbosity": 0,
            "seed": seed,
        }
        flags = [f"-{name}={value}" for name, value in arguments.items()]
        self._findings.mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *flags, str(corpus)], self.try_one, custom_mutator=self.vary)
        atheris.Fuzz()

    def _stop(self) -> None:
        """The time is over.  The fuzzer would end the process without a word of Python's, so we do it."""
        print(f"{self._name}: {self._executions} executions, found nothing", flush=True)
        shutil.rmtree(self._corpus, ignore_errors=True)
        os._exit(0)


def instrument() -> None:
    """Let atheris see which branches of the package an input takes."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["macula_trio"]):
        package = importlib.import_module("macula_trio")
        for module in pkgutil.walk_packages(package.__path__, "macula_trio."):
            if not module.name.startswith(("macula_trio._cli", "macula_trio.__main__", "macula_trio.testing.pytest")):
                importlib.import_module(module.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["frames", "handshakes", "dht", "hellos", "certificates"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--again", type=Path, help="try the input in this file, and nothing else")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # broken connections are the point
    # As the tests run: what a peer can make us warn of, it can make us raise where warnings are errors.
    warnings.simplefilter("error")
    if options.again is not None:
        importlib.import_module("fuzz_tools").target(options.target).fuzz_one(options.again.read_bytes())
        print(f"{options.target}: {options.again} shows nothing any more")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # atheris has some of its own
        instrument()
    Campaign(options.target, options.findings.resolve()).run(options.seconds, options.seed)


if __name__ == "__main__":
    main()
