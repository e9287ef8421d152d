"""Classes, generators, exceptions and their traces, text, dates; ends with status 3."""

import collections
import datetime
import itertools
import re
import textwrap
import traceback


class Shape:
    """Something with an area."""

    def __init__(self, side: float) -> None:
        self.side = side

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.side:.3f})"


def squares(limit: int):
    """Yield squares, and say when told to stop."""
    try:
        for i in range(limit):
            yield i * i
    finally:
        print("closed")


generator = squares(10)
print(next(generator), next(generator), Shape(2 / 3))
generator.close()
try:
    dict[str, int]()["missing"]
except KeyError:
    print(traceback.format_exc())
print(re.sub(r"(\w)(\w*)", r"\2\1", "pig latin text"), datetime.date(2024, 2, 29).isoformat())
print(collections.Counter("mississippi").most_common(2), list(itertools.permutations("abc"))[3])
print(textwrap.fill("word " * 30, 40))
raise SystemExit(3)
