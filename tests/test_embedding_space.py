import math

import numpy as np
import pytest

from dml.embedding_space import SPECTRA, TITLES, describe, spectral_decay


def cosine_distance(x, y):
    return 1 - sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def mean_distance(vectors):
    """Of all ordered pairs of two different ones."""
    pairs = [(i, j) for i in range(len(vectors)) for j in range(len(vectors)) if i != j]
    return sum(cosine_distance(vectors[i], vectors[j]) for i, j in pairs) / len(pairs)


def pi_by_pairs(embeddings, labels):
    """pi_intra and pi_inter."""
    classes = [
        [vector for vector, label in zip(embeddings.tolist(), labels, strict=True) if label == c] for c in set(labels)
    ]
    several = [mean_distance(vectors) for vectors in classes if len(vectors) > 1]
    centres = [[sum(column) / len(vectors) for column in zip(*vectors, strict=True)] for vectors in classes]
    return sum(several) / len(several), mean_distance(centres)


def rho_by_definition(values, k):
    kept = values[abs(k) - 1 :]
    shares = [value / sum(kept) for value in kept]
    uniform = [1 / len(kept)] * len(kept)
    p, q = (uniform, shares) if k > 0 else (shares, uniform)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def with_singular_values(values, n, rng):
    """A matrix (n, D) with these D singular values."""
    left = np.linalg.qr(rng.standard_normal((n, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return left * values @ right


@pytest.mark.parametrize("n_classes", [2, 9, 40])
@pytest.mark.parametrize("shift", [0, 3])
def test_pi_is_that_of_all_pairs(n_classes, shift):
    rng = np.random.default_rng(n_classes)
    embeddings, labels = rng.standard_normal((60, 5)) + shift, rng.integers(0, n_classes, 60)
    intra, inter = pi_by_pairs(embeddings, labels.tolist())
    found = describe(embeddings, labels)
    assert found["pi_intra"] == pytest.approx(intra, rel=1e-10)
    assert found["pi_inter"] == pytest.approx(inter, rel=1e-10)
    assert found["pi_ratio"] == pytest.approx(intra / inter, rel=1e-10)


def test_rho_is_that_of_the_singular_values():
    rng = np.random.default_rng(0)
    values = np.sort(rng.exponential(size=12))[::-1]
    found = describe(with_singular_values(values, 50, rng), np.arange(50) % 5)
    for name, k in {"rho_1": 1, "rho_2": 2, "rho_10": 10, "rho_minus_1": -1}.items():
        assert found[name] == pytest.approx(rho_by_definition(values.tolist(), k), rel=1e-8), name
    assert list(found) == list(TITLES)
    assert set(SPECTRA) < set(TITLES)


def test_by_hand():
    """Singular values are 2, 2 and 1: columns are orthogonal."""
    embeddings = np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 1]])
    found = describe(embeddings, ["owl", "owl", "hen"])
    assert found["pi_intra"] == pytest.approx(1)
    assert found["pi_inter"] == pytest.approx(1)
    third, shares = 1 / 3, np.array([0.4, 0.4, 0.2])
    assert found["rho_1"] == pytest.approx(sum(third * math.log(third / share) for share in shares))
    assert found["rho_2"] == pytest.approx(0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)))
    assert found["rho_minus_1"] == pytest.approx(sum(share * math.log(share / third) for share in shares))
    assert "rho_10" not in found


def test_a_flat_spectrum_has_no_decay():
    found = describe(np.tile(np.eye(12), (3, 1)), np.arange(36) % 12)
    assert [found[name] for name in SPECTRA] == pytest.approx([0, 0, 0, 0], abs=1e-12)
    assert found["pi_intra"] == pytest.approx(0, abs=1e-12)
    assert found["pi_inter"] == pytest.approx(1)


def test_where_one_value_is_left_it_is_flat():
    found = describe(np.random.default_rng(6).standard_normal((40, 10)), np.arange(40) % 10)
    assert found["rho_10"] == 0
    assert found["rho_1"] > 0


def test_fewer_directions_more_decay():
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 10
    decays = [
        describe(with_singular_values(np.arange(1.0, 17) ** -power, 200, rng), labels) for power in (0, 0.5, 1, 2, 4)
    ]
    for name in SPECTRA:
        values = [found[name] for found in decays]
        assert values == sorted(values) and values[0] < values[-1], name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_collapsed_embedding_has_a_large_but_finite_decay(dtype):
    rng = np.random.default_rng(2)
    vector = rng.standard_normal(128)
    noise = 1e-3 * rng.standard_normal((300, 128))
    labels = np.arange(300) % 10
    collapsed = describe(np.tile(vector / np.linalg.norm(vector), (300, 1)).astype(dtype), labels)
    nearly = describe((vector / np.linalg.norm(vector) + noise).astype(dtype), labels)
    for name, k in {"rho_1": 1, "rho_2": 2, "rho_10": 10}.items():
        assert nearly[name] < collapsed[name] <= 23 * math.log(2) - math.log(129 - k) + 1e-9, name
        assert collapsed[name] > 10
    assert collapsed["rho_minus_1"] == pytest.approx(math.log(128), abs=1e-6)
    assert collapsed["pi_intra"] == pytest.approx(0, abs=1e-7)
    assert collapsed["pi_ratio"] >= 0
    assert all(map(math.isfinite, describe(np.zeros((300, 128)), labels).values()))


def test_what_is_below_float32s_resolution_is_not_measured():
    values = np.array([1.0, 0.5, 0.1])
    exact = spectral_decay(np.append(values, 0), 1)
    assert spectral_decay(np.append(values, 1e-9), 1) == exact
    assert spectral_decay(np.append(values, 1e-6), 1) < exact - 0.1
    assert spectral_decay(np.append(values, 1e-6), 1) == pytest.approx(rho_by_definition([*values, 1e-6], 1))


def test_classes_of_one_image_are_left_out_of_pi_intra_only():
    rng = np.random.default_rng(3)
    embeddings, labels = rng.standard_normal((30, 4)), np.arange(30) // 3
    alone = np.concatenate([embeddings, 5 + rng.standard_normal((4, 4))]), np.append(labels, [100, 101, 102, 103])
    assert describe(*alone)["pi_intra"] == pytest.approx(describe(embeddings, labels)["pi_intra"])
    assert describe(*alone)["pi_inter"] != pytest.approx(describe(embeddings, labels)["pi_inter"])


def test_order_names_of_classes_rotation_and_scale_do_not_matter():
    rng = np.random.default_rng(4)
    embeddings, labels = rng.standard_normal((90, 12)) + 1, rng.integers(0, 10, 90)
    expected, order = describe(embeddings, labels), rng.permutation(90)
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    names = np.array([f"class {9 - label}" for label in labels])
    assert describe(3.7 * (embeddings @ rotation)[order], names[order]) == pytest.approx(expected, rel=1e-9)


def test_lengths_matter_to_all_but_pi_intra():
    rng = np.random.default_rng(5)
    embeddings, labels = rng.standard_normal((90, 12)) + 1, rng.integers(0, 10, 90)
    scaled = describe(embeddings * rng.lognormal(size=(90, 1)), labels)
    for name, value in describe(embeddings, labels).items():
        assert (scaled[name] == pytest.approx(value, rel=1e-9)) == (name == "pi_intra"), name


def test_what_cannot_be_described_is_refused():
    embeddings, labels = np.ones((6, 2)), np.arange(6) // 2
    with pytest.raises(ValueError, match=r"embeddings \(6, 2\) and labels \(5,\)"):
        describe(embeddings, labels[:5])
    with pytest.raises(ValueError, match="labels: 1 classes, the largest of 6"):
        describe(embeddings, np.zeros(6))
    with pytest.raises(ValueError, match="labels: 6 classes, the largest of 1"):
        describe(embeddings, np.arange(6))
    with pytest.raises(ValueError, match="labels: 0 classes"):
        describe(embeddings[:0], labels[:0])
    embeddings[3, 1] = np.nan
    with pytest.raises(ValueError, match="some are NaN or infinite"):
        describe(embeddings, labels)
