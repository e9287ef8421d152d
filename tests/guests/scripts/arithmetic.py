"""Integers of any size, floats to the last digit, decimals, fractions, a seeded generator."""

import decimal
import fractions
import math
import random
import statistics

print(math.pi**0.5, 1e23, 0.1 + 0.2, 5e-324, math.fsum([0.1] * 10), 1e16 + 1, round(2.675, 2))
print(decimal.Decimal(1) / 7, fractions.Fraction(3, 9), 2**200, -7 // 2, -7 % 3, pow(3, 999, 1009))
print(statistics.stdev(range(99)), math.gamma(4.5), math.erf(0.3), math.nextafter(1, 2))
print(float("1e400"), float("-nan"), (2**53 + 1) / 3, int(1e22), hex(12345678901234567890))
random.seed(5)
print(random.random(), random.sample(range(99), 5), random.gauss(0, 1))
print(sum(i * i for i in range(20000)), math.factorial(60), divmod(10**30, 7**20))
