"""All metrics of `dml/metrics/` on one ranking."""

import numpy as np

from dml import plugins
from dml.neighbours import Neighbours


def measure(neighbours: Neighbours) -> dict[str, np.ndarray | float]:
    """Every metric by name: (Q,) values, one per query with a positive, or one number where queries have no value."""
    values: dict[str, np.ndarray | float] = {}
    for name in plugins.names("metrics"):
        values |= plugins.load("metrics", name).scores(neighbours)
    return values
