"""All metrics of `dml/metrics/` on one ranking."""

import numpy as np

from dml import plugins
from dml.neighbours import Neighbours


def measure(neighbours: Neighbours, clusters: bool = True) -> dict[str, np.ndarray | float]:
    """Every metric by name: (Q,) values, one per query with a positive, or one number where queries have no value.

    Without `clusters`, those of files with the literal OF_CLUSTERS are left out: they depend on no ranking.
    """
    values: dict[str, np.ndarray | float] = {}
    for name in plugins.names("metrics"):
        if clusters or not plugins.literal("metrics", name, "OF_CLUSTERS", False):
            values |= plugins.load("metrics", name).scores(neighbours)
    return values
