"""FastAP on batches of related classes (Cakir et al., CVPR 2019): see fastap.py, whose loss it has.

A batch holds classes of two super-classes, such as kinds of products, so that most negatives are hard ones. The authors
call this necessary on Stanford Online Products. Where a data set has no super-classes it cannot be used.
"""

from dml.methods.fastap import FastAP

TITLE = "FastAP, hierarchical batches"
RANGES = {"num_bins": {"low": 2, "high": 32, "integer": True}}
DEFAULTS = {"num_bins": 10}  # the authors'
IMAGES_PER_CLASS = 4
BATCHES = "hierarchical"


class FastAPHierarchical(FastAP):
    """Ranks the batch for each anchor."""
