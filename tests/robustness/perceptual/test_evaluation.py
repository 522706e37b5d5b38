import numpy as np
import pytest
import torch

from ndpp_dense.robustness.perceptual import (
    GeneratedRatings,
    agreement,
    evaluate,
    learned,
    measure,
    shift_ratios,
    split_references,
    variants,
)
from ndpp_dense.robustness.perceptual.baselines import negative_psnr, ssim_distance
from ndpp_dense.robustness.perceptual.distortions import centre
from ndpp_dense.robustness.perceptual.invariance import matched


@pytest.fixture
def ratings(picture_folder):
    return GeneratedRatings(picture_folder, size=64, kinds=["blur", "noise", "shift"])


def test_pairs_are_measured_in_their_order_whatever_the_batch(ratings, stages):
    metrics = {"psnr": negative_psnr, "gap": learned(stages)["gap"].terms}
    found = measure(ratings, metrics, batch_size=4)
    assert found["psnr"].shape == (90,)
    assert found["gap"].shape == (90, 12)
    pair = ratings.pairs[37]
    alone = negative_psnr(ratings.reference(pair.reference)[None], ratings.distorted(pair)[None])
    torch.testing.assert_close(found["psnr"][37:38], alone)
    torch.testing.assert_close(measure(ratings, metrics, batch_size=90)["gap"], found["gap"])


def test_rows_are_of_the_test_references(ratings, stages):
    split = split_references(ratings, 0.5, 0)
    own = learned(stages)
    measured = measure(ratings, {**{name: d.terms for name, d in own.items()}, "psnr": negative_psnr})
    measured["oracle"] = torch.tensor([pair.difference for pair in ratings.pairs])
    measured["chance"] = torch.rand(90, generator=torch.Generator().manual_seed(0))
    rows, weights = evaluate(ratings, measured, split, resamples=50)
    assert list(rows) == [
        "gap uniform",
        "gap trained",
        "activation uniform",
        "activation trained",
        "psnr",
        "oracle",
        "chance",
    ]
    assert rows["oracle"].agreement.spearman.value == pytest.approx(1)
    test = split.rows(ratings.pairs, "test")
    pairs = [ratings.pairs[row] for row in test]
    expected = agreement(
        measured["chance"].numpy()[test],
        [pair.difference for pair in pairs],
        [pair.reference for pair in pairs],
        [pair.kind for pair in pairs],
        resamples=50,
    )
    assert rows["chance"].agreement == expected
    kinds = np.mean([interval.value for interval in rows["chance"].by_kind.values()])
    assert kinds == pytest.approx(expected.spearman.value)
    assert rows["gap trained"].lead.value == 0
    lead = rows["gap trained"].agreement.spearman.value - 1
    assert rows["oracle"].lead.value == pytest.approx(lead)
    assert set(weights) == {"gap", "activation"}


def test_the_values_of_rows_are_those_of_the_distances(ratings, stages):
    own = learned(stages)
    measured = measure(ratings, {name: distance.terms for name, distance in own.items()})
    rows, weights = evaluate(ratings, measured, split_references(ratings), resamples=9)
    pair = ratings.pairs[50]
    images = ratings.reference(pair.reference)[None], ratings.distorted(pair)[None]
    for name, distance in own.items():
        with torch.no_grad():
            distance.weight.copy_(weights[name])
            found = variants(name, distance.terms(*images), weights[name]) | {name: distance(*images)}
        assert found[name].item() == pytest.approx(rows[f"{name} trained"].values[50], rel=1e-4)
        assert found[f"{name} uniform"].item() == pytest.approx(rows[f"{name} uniform"].values[50], rel=1e-4)
        assert found[f"{name} trained"].item() == pytest.approx(rows[f"{name} trained"].values[50], rel=1e-4)


def test_weights_that_are_given_are_not_trained(ratings, stages):
    terms = measure(ratings, {"gap": learned(stages)["gap"].terms})
    rows, weights = evaluate(ratings, terms, split_references(ratings), given={"gap": torch.ones(12)}, resamples=9)
    assert torch.equal(weights["gap"], torch.ones(12))
    np.testing.assert_array_equal(rows["gap trained"].values, rows["gap uniform"].values)


def test_copies_that_are_compared_change_as_much(ratings):
    picture = ratings.picture("p0.png")
    reference = centre(picture, 8)
    moved = [centre(picture, 8, right=shift) for shift in (1, 4)]
    noisy, blurred = matched(reference, moved, torch.Generator().manual_seed(0))
    for copy, shifted in [*zip(noisy, moved, strict=True), (blurred[0], moved[0])]:
        expected = float((shifted - reference).square().mean())
        assert float((copy - reference).square().mean()) == pytest.approx(expected, rel=0.01)
    added = noisy[1] - reference
    assert added.mean().abs() < 0.5 * added.std()  # noise, not a change of brightness
    assert blurred[1] is None  # such textures differ from their neighbours by more than from their mean


def test_ratios_are_one_for_the_mean_square_and_less_for_averages(ratings, circular_stages):
    def error(a, b):
        return (a - b).square().mean(dim=(1, 2, 3)).sqrt()

    distances = {"error": error, "gap": learned(circular_stages)["gap"].terms, "ssim": ssim_distance}
    weight = torch.tensor([1.0] * 5 + [0.0] * 7)
    found = shift_ratios(ratings, ratings.names, distances, {"gap": weight})
    assert list(found) == ["error", "gap uniform", "gap trained", "ssim"]
    assert found["gap trained"].mean_noise != found["gap uniform"].mean_noise
    for interval in (*found["error"].noise, found["error"].mean_noise):
        assert interval.value == pytest.approx(1, abs=0.01)
    assert len(found["gap uniform"].noise) == len(found["gap uniform"].blur) == 8
    assert found["gap uniform"].mean_noise.value < 0.7
    assert found["gap uniform"].mean_noise.high < found["ssim"].mean_noise.low
    assert 0 < found["gap uniform"].no_blur < 1
