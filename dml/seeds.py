"""Every random draw has a named seed: a number derived from the study's seed and what the draw is for."""

import hashlib

import numpy as np


def derive_seed(*names: int | str) -> int:
    """A 63-bit seed that depends on every name and on nothing else; the same in any process and on any machine."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: int | str) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.Generator(np.random.PCG64(derive_seed(*names)))
