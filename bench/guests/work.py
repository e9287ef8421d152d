"""CPython at work: integers, dictionaries, classes, text, sorting. argv[1] is the rounds."""

import re
import sys
import zlib


class Particle:
    """A point that moves."""

    __slots__ = ("speed", "where")

    def __init__(self, where: float, speed: float) -> None:
        self.where = where
        self.speed = speed

    def move(self, seconds: float) -> None:
        """Move, and bounce off both walls."""
        self.where += self.speed * seconds
        if not 0 <= self.where <= 1:
            self.speed = -self.speed


total = 0
for turn in range(int(sys.argv[1])):
    counts: dict[int, int] = {}
    for i in range(4000):
        key = i * 7919 % 1009
        counts[key] = counts.get(key, 0) + i
    total += sum(sorted(counts.values())[:100])
    particles = [Particle(i / 200, (i % 17) / 10) for i in range(200)]
    for _ in range(15):
        for particle in particles:
            particle.move(0.01)
    total += int(sum(particle.where for particle in particles) * 1e6)
    text = " ".join(f"word{i * i % 997}" for i in range(1500))
    total += len(re.sub(r"w(or)d(\d)", r"\2\1", text)) + zlib.crc32(text.encode())
    total += pow(3, 10**300 + turn, 10**60 + 7) % 1000
print(total)
