"""`python -m bench [name ...]`: print the figures, each held against its goal."""

from __future__ import annotations

import importlib
import sys

from bench.measure import machine

NAMES = ("startup", "request", "hops", "call", "stream", "structured", "layers", "local", "serve", "tools", "batch")


def main() -> None:
    """Run the named benchmarks, or all."""
    print(machine())
    for name in sys.argv[1:] or NAMES:
        print(f"\n{name}")
        for line in importlib.import_module(f"bench.{name}").run():
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
