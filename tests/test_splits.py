"""The class halves and the paper's folds."""

import pytest

from dml.images import Image
from dml.splits import check_folds, class_halves, folds, half_of, halves, queries_of, read_folds, write_folds

# the paper's folds as the released code makes them: (first and last train class, first and last validation class)
PAPER = {
    100: [((0, 74), (75, 99)), ((25, 99), (0, 24)), ((50, 24), (25, 49)), ((75, 49), (50, 74))],
    98: [((0, 73), (74, 97)), ((24, 97), (0, 23)), ((49, 24), (25, 48)), ((73, 48), (49, 72))],
    11317: [((0, 8487), (8488, 11316)), ((2829, 11316), (0, 2828)), ((5658, 2828), (2829, 5657)),
            ((8487, 5657), (5658, 8486))],
}  # fmt: skip
SIZES = {100: (75, 25), 98: (74, 24), 11317: (8488, 2829)}
NEVER_VALIDATED = {100: set(), 98: {24, 73}, 11317: {8487}}


def named(names, parts=None):
    """One image for each class name."""
    return [Image("f", f"{i}.jpg", name, parts[i] if parts else "") for i, name in enumerate(names)]


@pytest.mark.fidelity("Folds of CUB, Cars196 and SOP", "the classes that the released code gives", "classes")
@pytest.mark.parametrize("num_classes", PAPER)
def test_folds_are_the_papers_in_its_order(num_classes, deviates):
    found = folds(num_classes)
    ends = [((f.train[0], f.train[-1]), (f.validation[0], f.validation[-1])) for f in found]
    assert ends == PAPER[num_classes]
    assert {(len(f.train), len(f.validation)) for f in found} == {SIZES[num_classes]}
    for fold in found:
        assert all(b == (a + 1) % num_classes for a, b in zip(fold.train, fold.train[1:], strict=False))
        assert all(b == a + 1 for a, b in zip(fold.validation, fold.validation[1:], strict=False))
    validated = {c for f in found for c in f.validation}
    assert set(range(num_classes)) - validated == NEVER_VALIDATED[num_classes]
    deviates(0)


@pytest.mark.parametrize("num_classes", range(8, 60))
@pytest.mark.parametrize("num_folds", [2, 3, 4])
def test_folds_are_always_disjoint(num_classes, num_folds):
    check_folds(folds(num_classes, num_folds), num_classes)


def test_overlapping_folds_are_noticed():
    first, second, *rest = folds(100)
    with pytest.raises(AssertionError):
        check_folds([first, first, *rest], 100)
    with pytest.raises(AssertionError):
        check_folds([first, second._replace(train=second.train + second.validation[:1])], 100)


@pytest.mark.parametrize("total, trainval, test", [(200, 100, 100), (196, 98, 98), (22634, 11317, 11317), (81, 40, 41)])
def test_halves(total, trainval, test):
    first, second = halves(total)
    assert (len(first), len(second)) == (trainval, test)
    assert [*first, *second] == list(range(total))


def test_too_few_classes_for_the_folds():
    with pytest.raises(ValueError, match="7 trainval classes cannot make 4 folds.*at least 16 classes"):
        folds(7)


def test_fold_file_says_the_same_as_the_folds(tmp_path):
    names = [f"class_{c:03d}" for c in range(50) for _ in range(1 + (c < 25) + c % 3)]
    write_folds("birds", named(names), 4, tmp_path / "folds.csv")
    for written, expected in zip(read_folds(tmp_path / "folds.csv"), folds(25), strict=True):
        assert set(written.train) == set(expected.train)
        assert set(written.validation) == set(expected.validation)


def test_a_trainval_class_of_one_image_is_named(tmp_path):
    names = ["lonely", *(f"class_{c:02d}" for c in range(30) for _ in range(3))]
    renamed = ["a_" + name if name == "lonely" else name for name in names]
    with pytest.raises(ValueError, match="class 'a_lonely' has a single image.*at least 2"):
        write_folds("birds", named(renamed), 4, tmp_path / "folds.csv")
    # Here it is the last class, a test class: it is left out as a query, no more.
    write_folds("birds", named(names), 4, tmp_path / "folds.csv")


def test_half_of_gives_every_image_to_one_half():
    names = ["b", "a", "d", "c", "a", "d"]
    for half, expected in (("trainval", [(0, 1), (1, 0), (4, 0)]), ("test", [(2, 3), (3, 2), (5, 3)])):
        assert sorted(zip(*half_of(named(names), half), strict=True)) == expected


def test_a_data_set_may_fix_its_own_split(tmp_path):
    names = [f"{c:02d}" for c in range(24) for _ in range(3)]
    part_of = {name: "train" if int(name) % 3 else ("query", "gallery")[int(name) % 2] for name in names}
    images = named(names, [part_of[name] for name in names])
    trainval, test = class_halves("shop", images)
    assert trainval == [f"{c:02d}" for c in range(24) if c % 3] and test == [f"{c:02d}" for c in range(0, 24, 3)]
    for half, first, classes in (("trainval", 0, trainval), ("test", 16, test)):
        positions, labels = half_of(images, half)
        assert [names[i] for i in positions] == [classes[label - first] for label in labels]
        assert sorted(set(labels)) == list(range(first, first + len(classes)))
    positions, _ = half_of(images, "test")
    chosen = [images[i] for i in positions]
    assert queries_of(chosen) == [image.part == "query" for image in chosen]
    assert queries_of([images[i] for i in half_of(images, "trainval")[0]]) is None
    write_folds("shop", images, 4, tmp_path / "folds.csv")
    assert read_folds(tmp_path / "folds.csv") == [fold._replace(train=tuple(sorted(fold.train))) for fold in folds(16)]


def test_the_classes_of_a_data_sets_own_split_are_taken_as_they_are(tmp_path):
    names = ["alone", *(f"{c:02d}" for c in range(20) for _ in range(2))]
    images = named(names, ["train" if name == "alone" or int(name) < 10 else "test" for name in names])
    write_folds("shop", images, 4, tmp_path / "folds.csv")
    assert "alone,1,train" in (tmp_path / "folds.csv").read_text()


def test_a_split_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="shop: class 'b' is in the training and in the test part"):
        class_halves("shop", named("abbc", ["train", "train", "test", "test"]))
    with pytest.raises(ValueError, match="shop: an image has the part ''; expected one of train, test"):
        class_halves("shop", named("abc", ["train", "", "test"]))


def test_the_order_of_a_half_has_nothing_to_do_with_classes():
    names = [f"class_{c:02d}" for c in range(40) for _ in range(10)]
    positions, labels = half_of(named(names), "trainval")
    assert (positions, labels) == half_of(named(names), "trainval")
    following = sum(a == b for a, b in zip(labels, labels[1:], strict=False)) / len(labels)
    assert following < 0.15  # one in twenty by chance, nine in ten in an order by class


def test_a_collapsed_model_scores_like_chance():
    import numpy as np

    from dml.measuring import measure
    from dml.neighbours import neighbours

    names = [f"class_{c:02d}" for c in range(40) for _ in range(10)]
    _, labels = half_of(named(names), "test")
    collapsed = measure(neighbours(np.ones((len(labels), 4)), np.array(labels)))["map_at_r"].mean()
    assert collapsed < 0.02  # a random order gives 0.006, an order by class 1 / 20
