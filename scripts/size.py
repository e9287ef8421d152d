"""`make size`: lines by room, the largest modules, tests against code."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from quality.size import FILE_SOFT, LABORATORY, PACKAGE, lines_of_tests, modules, rooms


def main() -> None:
    """Print the table."""
    code, tests = modules("src"), lines_of_tests()
    for room, count in sorted(rooms().items(), key=lambda item: -item[1]):
        print(f"{count:7}  {room}")
    total = sum(code.values())
    laboratory = rooms().get("lab", 0)
    print(f"{total - laboratory:7}  the machine (budget {PACKAGE})")
    print(f"{laboratory:7}  the laboratory (budget {LABORATORY})")
    print(f"{tests:7}  tests ({tests / max(total, 1):.2f} of the code)")
    for path, count in sorted(code.items(), key=lambda item: -item[1])[:5]:
        print(f"{count:7}  {path}{' (over the soft budget)' if count > FILE_SOFT else ''}")


if __name__ == "__main__":
    main()
