"""Change points by Apache Otava (formerly Hunter), in an environment of its own that has it.

Series of numbers as JSON on standard input, lists of places on standard output.
"""

import json
import sys

from otava.analysis import compute_change_points

found = []
for series in json.load(sys.stdin):
    # Otava's own defaults: windows of 30, p of 0.001, no least size.
    points, _ = compute_change_points(series, window_len=30, max_pvalue=0.001, min_magnitude=0.0)
    found.append([int(point.index) for point in points])
json.dump(found, sys.stdout)
