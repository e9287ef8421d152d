"""The performance laboratory: benchmarks, their runner, statistics and verdicts, for any project.

from hartwood.lab import workload     # docs/BENCHMARKING.md has the recipe
"""

from __future__ import annotations

# Not lazily: the module `workload` would stand where the decorator of that name has to.
from hartwood.lab.workload import LabError, Skip, Workload, black_box, workload

__all__ = ["LabError", "Skip", "Workload", "black_box", "workload"]
