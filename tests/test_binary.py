import numpy as np
import pytest
from hypothesis import given, settings
from test_neighbours import KINDS, drawn, retrievals

from dml.binary import binarise
from dml.embedding import concatenate, normalise_rows
from dml.neighbours import nearest, neighbours


def bits(vector):
    """A code as one integer, the first coordinate its highest bit."""
    return int("".join("1" if value > 0 else "0" for value in vector.tolist()), 2)


def hamming_ranking(query, gallery, without=None):
    """Gallery indices by the number of bits in which XOR finds a difference, then by index; of codes as integers."""
    candidates = [index for index in range(len(gallery)) if index != without]
    return sorted(candidates, key=lambda index: ((query ^ gallery[index]).bit_count(), index))


def hamming_ranks(embeddings, labels, gallery=None, gallery_labels=None):
    """The ranks of all positives of all queries."""
    itself = gallery is None
    gallery, gallery_labels = (embeddings, labels) if itself else (gallery, gallery_labels)
    items = list(map(bits, gallery))
    return [
        rank
        for query, vector in enumerate(embeddings)
        for rank, item in enumerate(hamming_ranking(bits(vector), items, query if itself else None), 1)
        if gallery_labels[item] == labels[query]
    ]


@settings(deadline=None, max_examples=100)
@given(retrievals())
def test_codes_are_ranked_by_hamming_distance(arguments):
    expected = hamming_ranks(*arguments)
    if not expected:
        return
    coded = [binarise(each) if np.ndim(each) == 2 else each for each in arguments]
    assert neighbours(*coded).ranks.tolist() == expected


@pytest.mark.parametrize("dimensions", [1, 7, 64, 130, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_long_codes_are_ranked_by_hamming_distance(dimensions, kind):
    rng = np.random.default_rng(dimensions)
    embeddings, labels = drawn(kind, 60, dimensions, rng), rng.integers(0, 8, 60)
    codes = binarise(embeddings)
    assert neighbours(codes, labels).ranks.tolist() == hamming_ranks(embeddings, labels)
    assert nearest(codes, [5], 59)[0].tolist() == hamming_ranking(bits(embeddings[5]), list(map(bits, embeddings)), 5)


def test_equally_distant_codes_are_ranked_by_index():
    codes = binarise(np.array([[1.0, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1], [1, 1, -1]]))
    assert nearest(codes, [0], 4).tolist() == [[3, 1, 2, 4]]


def test_only_what_is_above_0_is_a_bit():
    found = binarise(np.array([[0.0, -0.0, 1e-30, -1e-30, 5.0, -5.0]], dtype=np.float32))
    assert found.tolist() == [[0, 0, 1, 0, 1, 0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lengths_and_joining_do_not_matter(dtype):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20, 9)).astype(dtype)
    codes = [binarise(first), binarise(second)]
    np.testing.assert_array_equal(binarise(normalise_rows(first)), codes[0])
    np.testing.assert_array_equal(binarise(concatenate([first, second])), np.concatenate(codes, axis=1))


def test_packed_codes_take_a_bit_a_dimension_and_are_the_same():
    codes = binarise(np.random.default_rng(1).standard_normal((10, 130)))
    packed = np.packbits(codes > 0, axis=1)
    assert packed.nbytes == 10 * 17  # 130 bits begin a 17th byte
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1, count=130), codes)
    assert np.packbits(binarise(np.ones((1, 2048))) > 0, axis=1).nbytes == np.ones(64, np.float32).nbytes


def test_nan_has_no_sign():
    embeddings = np.ones((4, 3))
    embeddings[2, 1] = np.nan
    with pytest.raises(ValueError, match="embeddings: 1 of 4 rows hold NaN"):
        binarise(embeddings)
