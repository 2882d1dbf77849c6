"""`python -m gpt`, and the command `gpt`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Gives the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments[:1]:
        from gpt.version import __version__

        print(f"gpt {__version__}")
        return 0
    from gpt.cli.commands import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
