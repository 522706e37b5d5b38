import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ndpp_dense.robustness.perceptual import (
    GeneratedRatings,
    Pair,
    ReferenceSplit,
    fit_weight,
    split_references,
    train_weight,
)
from ndpp_dense.robustness.perceptual.distance import weighted_root_mean
from ndpp_dense.robustness.perceptual.training import LOSSES


def planted(seed, pairs=300, features=12):
    """Terms of which three alone matter, as much in each."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.rand(pairs, features, generator=generator).square() * torch.logspace(-3, 2, features)
    weight = torch.zeros(features)
    weight[[1, 5, 9]] = 1 / terms.mean(0)[[1, 5, 9]].sqrt()
    return terms, weighted_root_mean(terms, weight)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_that_made_the_ratings_are_found(loss):
    terms, rating = planted(0)
    weight = fit_weight(terms, rating, [""] * 300, loss)
    new_terms, new_rating = planted(1)
    found = spearmanr(weighted_root_mean(new_terms, weight), new_rating)[0]
    uniform = spearmanr(weighted_root_mean(new_terms), new_rating)[0]
    assert found > 0.95 > 0.7 > uniform
    assert (weight > 0).all()
    assert weight.square().mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_scales_are_not_compared(loss):
    terms, rating = planted(2)
    scales = ["a" if row % 2 else "b" for row in range(300)]
    moved = rating + torch.tensor([1000.0 if scale == "a" else 0.0 for scale in scales])
    weight = fit_weight(terms, moved, scales, loss)
    new_terms, new_rating = planted(3)
    assert spearmanr(weighted_root_mean(new_terms, weight), new_rating)[0] > 0.95


@pytest.mark.parametrize("loss", LOSSES)
def test_training_sees_nothing_of_the_test_references(loss):
    terms, rating = planted(4)
    names = [f"r{row // 10}" for row in range(300)]
    split = ReferenceSplit(frozenset(f"r{n}" for n in range(20)), frozenset(f"r{n}" for n in range(20, 30)))
    pairs = [
        Pair(name, f"d{row}", "k", 1, value)
        for row, (name, value) in enumerate(zip(names, rating.tolist(), strict=True))
    ]
    expected = train_weight(terms, pairs, split, loss)
    test = split.rows(pairs, "test")
    assert len(test) == 100
    spoilt = terms.clone()
    spoilt[test] = float("nan")
    changed = [
        Pair(p.reference, p.distorted, p.kind, 1, 9e9 if p.reference in split.test else p.difference) for p in pairs
    ]
    assert torch.equal(train_weight(spoilt, changed, split, loss), expected)


def test_a_reference_in_both_parts_is_refused():
    with pytest.raises(ValueError, match=r"1 references are in both parts \(b\)"):
        ReferenceSplit(frozenset("ab"), frozenset("bc"))


@pytest.mark.parametrize("seed", range(6))
def test_splits_share_no_reference_nor_copies_of_one(picture_folder, seed):
    copy = picture_folder / "copy_of_p1.png"
    copy.write_bytes((picture_folder / "inner" / "p1.png").read_bytes())
    ratings = GeneratedRatings(picture_folder, size=64, kinds=["blur"])
    split = split_references(ratings, 0.5, seed)
    assert not split.train & split.test
    assert split.train | split.test == set(ratings.names)
    assert split.train
    assert split.test
    copies = {"copy_of_p1.png", "inner/p1.png"}
    assert copies <= split.train or copies <= split.test
    rows = [set(split.rows(ratings.pairs, part).tolist()) for part in ("train", "test")]
    assert not rows[0] & rows[1]
    assert len(rows[0]) + len(rows[1]) == len(ratings.pairs)
    assert split == split_references(ratings, 0.5, seed)


def test_splits_depend_on_the_seed_and_need_two_references(picture_folder):
    ratings = GeneratedRatings(picture_folder, size=64, kinds=["blur"])
    assert len({split_references(ratings, 0.5, seed) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match=r"test_share = 1\.0"):
        split_references(ratings, 1.0)
    with pytest.raises(ValueError, match="1 different reference"):
        split_references(GeneratedRatings(picture_folder, size=64, limit=1), 0.5)


def test_nothing_to_learn_is_said():
    with pytest.raises(ValueError, match="'l2': choose from rank, pearson"):
        fit_weight(torch.rand(4, 2), torch.arange(4.0), [""] * 4, "l2")
    with pytest.raises(ValueError, match="equal images"):
        fit_weight(torch.zeros(4, 2), torch.arange(4.0), [""] * 4)
    with pytest.raises(ValueError, match="no order to learn"):
        fit_weight(torch.rand(4, 2), torch.ones(4), [""] * 4)
    with pytest.raises(ValueError, match="another set"):
        train_weight(torch.rand(1, 2), [Pair("a", "b", "k", 1, 1.0)], ReferenceSplit(frozenset("x"), frozenset("y")))


def test_dead_channels_do_no_harm():
    terms, rating = planted(5)
    terms = torch.cat([terms, torch.zeros(300, 3)], dim=1)
    weight = fit_weight(terms, rating, [""] * 300, steps=20)
    assert torch.isfinite(weight).all()
    assert np.isfinite(weighted_root_mean(terms, weight).numpy()).all()
