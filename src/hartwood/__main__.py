"""The command line's front door: `hartwood ...` and `python -m hartwood ...`.

`run` starts guests, often small ones, so it goes straight to a module that imports next to nothing,
and `boot` reads plain words without typer; every other command goes through that.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command in `sys.argv`; return its exit status (2 for bad usage)."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from hartwood.tools import run

        return run.main(arguments[1:])
    if arguments[:1] == ["boot"]:
        from hartwood.tools import bootwords

        status = bootwords.main(arguments[1:])
        if status is not None:
            return status
    from hartwood.tools import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
