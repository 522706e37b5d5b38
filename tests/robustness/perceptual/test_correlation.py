import numpy as np
import pytest

from ndpp_dense.robustness.perceptual import agreement
from ndpp_dense.robustness.perceptual.correlation import bootstrap


def ranks(x):
    """Mid-ranks by counting."""
    return np.array([(x < value).sum() + ((x == value).sum() - 1) / 2 for value in x])


def spearman(x, y):
    return np.corrcoef(ranks(x), ranks(y))[0, 1]


def kendall(x, y):
    first, second = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    return (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())


@pytest.fixture
def found():
    generator = np.random.default_rng(3)
    rating = generator.integers(1, 6, 60).astype(float)
    return rating + generator.normal(0, 1.5, 60), rating, [f"r{row // 6}" for row in range(60)]


def test_coefficients_are_those_counted_by_hand(found):
    distance, rating, references = found
    result = agreement(distance, rating, references)
    assert result.spearman.value == pytest.approx(spearman(distance, rating), abs=1e-12)
    assert result.kendall.value == pytest.approx(kendall(distance, rating), abs=1e-12)
    assert result.spearman.low < result.spearman.value < result.spearman.high
    assert (result.pairs, result.references) == (60, 10)


def test_scales_are_averaged_not_mixed(found):
    distance, rating, references = found
    scales = np.array(["a", "b", "b"] * 20)
    result = agreement(distance, rating + 100 * (scales == "a"), references, scales)
    expected = [spearman(distance[scales == s], rating[scales == s]) for s in "ab"]
    assert result.spearman.value == pytest.approx(np.mean(expected), abs=1e-12)


def test_pairs_of_one_reference_are_no_independent_witnesses():
    generator = np.random.default_rng(0)
    offsets = generator.normal(0, 1, 12).repeat(40)  # what a reference has in common
    rating = generator.normal(0, 0.3, 480) + offsets
    distance = generator.normal(0, 0.3, 480) + np.where(np.arange(480) // 40 % 2, offsets, -offsets)
    by_reference = agreement(distance, rating, [f"r{row // 40}" for row in range(480)]).spearman
    by_pair = agreement(distance, rating, [f"r{row}" for row in range(480)]).spearman
    assert by_reference.high - by_reference.low > 2 * (by_pair.high - by_pair.low)


def test_intervals_cover_as_often_as_they_say():
    covered = 0
    for trial in range(100):
        values = np.random.default_rng(trial).normal(0, 1, 40)
        names = np.arange(40).astype(str)
        interval = bootstrap(lambda rows, values=values: values[rows].mean(keepdims=True), names, 300, trial)[0]
        covered += interval.low <= 0 <= interval.high
    assert 88 <= covered <= 99


def test_equal_seeds_give_equal_intervals(found):
    assert agreement(*found, seed=4) == agreement(*found, seed=4)
    assert agreement(*found, seed=4) != agreement(*found, seed=5)


def test_a_perfect_order_has_a_perfect_interval():
    result = agreement(np.arange(20.0), np.arange(20.0) ** 3, [f"r{row % 4}" for row in range(20)])
    assert result.spearman.value == result.spearman.high == pytest.approx(1)


def test_what_has_no_order_is_said(found):
    distance, rating, references = found
    with pytest.raises(ValueError, match="distance of all 60 pairs is equal"):
        agreement(np.zeros(60), rating, references)
    with pytest.raises(ValueError, match="rating of all 60 pairs on the scale 'blur' is equal"):
        agreement(distance, np.ones(60), references, ["blur"] * 60)
    with pytest.raises(ValueError, match="1 reference images"):
        agreement(distance, rating, ["r"] * 60)
    with pytest.raises(ValueError, match="distance of pair 7 is not finite"):
        agreement(np.where(np.arange(60) == 7, np.nan, distance), rating, references)
    with pytest.raises(ValueError, match="'distance': 59"):
        agreement(distance[1:], rating, references)
