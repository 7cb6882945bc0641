"""Embeddings as binary codes: one bit in the place of each float.

Zhai & Wu 2019, "Classification is a Strong Baseline for Deep Metric Learning" (BMVC): nothing is trained for it. Images
are compared by the Hamming distance of the signs of their embeddings.
"""

import numpy as np


def binarise(embeddings: np.ndarray) -> np.ndarray:
    """Codes of embeddings (N, D): (N, D) float32, 1 where a coordinate is above 0, else 0.

    A coordinate of exactly 0 gives bit 0, and so does -0. The length of an embedding does not matter. The code of
    joined embeddings is their codes, joined.

    `dml.neighbours` ranks codes by Hamming distance: the number of different bits is the codes' squared Euclidean
    distance, an integer, which is not rounded. There are only D + 1 distances and so many ties, and of items at the
    same distance the one with the lower gallery index comes first.

    In this form codes are ranked, not stored: `np.packbits(codes > 0, axis=1)` takes D / 8 bytes an image, where
    float32 takes 4 D. 2,048 bits take 256 bytes, as 64 floats do.

    ValueError for NaN, which has no sign.
    """
    rows = np.isnan(embeddings).any(axis=1)
    if rows.any():
        raise ValueError(f"embeddings: {np.count_nonzero(rows)} of {len(rows)} rows hold NaN; expected numbers")
    return (embeddings > 0).astype(np.float32)
