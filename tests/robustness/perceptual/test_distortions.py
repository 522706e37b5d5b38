import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.robustness.perceptual import GeneratedRatings
from ndpp_dense.robustness.perceptual.distortions import KINDS, LEVELS, blur, centre, distort


@pytest.fixture
def picture(picture_folder):
    return GeneratedRatings(picture_folder, size=64).picture("p0.png")


@pytest.fixture
def smooth():
    """A picture that a shift of a few pixels changes in proportion."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    return torch.stack(
        [0.5 + 0.4 * torch.sin(x / 17), 0.5 + 0.4 * torch.cos(y / 13), 0.5 + 0.3 * torch.sin((x + y) / 19)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_step_changes_more(kind, smooth):
    generator = torch.Generator().manual_seed(0)
    textured = (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    reference = centre(textured, 12)
    views = [distort(textured, 12, kind, level, name="x") for level in range(1, 6)]
    errors = [float((view - reference).square().mean()) for view in views]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert len(set(errors)) == 5
    for view in views:
        assert view.shape == reference.shape
        torch.testing.assert_close(view * 255, (view * 255).round(), atol=1e-4, rtol=0)
        assert 0 <= view.min() <= view.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_make_equal_views(kind, picture):
    torch.manual_seed(1)
    first = distort(picture, 8, kind, 4, seed=3, name="a")
    torch.manual_seed(2)
    assert torch.equal(first, distort(picture, 8, kind, 4, seed=3, name="a"))


def test_references_have_their_own_noise_and_steps_the_same(picture):
    def added(level, name):
        return distort(picture * 0.2 + 0.4, 8, "noise", level, name=name) - centre(picture * 0.2 + 0.4, 8)

    first, second = added(1, "a"), added(2, "a")
    assert np.corrcoef(first.flatten(), second.flatten())[0, 1] > 0.95
    assert abs(np.corrcoef(first.flatten(), added(1, "b").flatten())[0, 1]) < 0.1
    assert float(second.std()) == pytest.approx(LEVELS["noise"][1], rel=0.1)


def test_a_shift_brings_what_is_there_into_view(picture):
    view = distort(picture, 8, "shift", 5, name="p0.png")
    around = [centre(picture, 8, right, down) for right, down in ((8, 0), (-8, 0), (0, 8), (0, -8))]
    assert sum(torch.equal(view, other) for other in around) == 1


def test_rotation_and_scale_are_about_the_middle(smooth):
    reference = centre(smooth, 16)
    for kind in ("rotation", "scale"):
        change = (distort(smooth, 16, kind, 5, name="x") - reference).abs().sum(0)
        assert change[30:34, 30:34].max() < 0.05 < change[0, 0] + change[-1, 0] + change[0, -1] + change[-1, -1]


def test_blur_keeps_the_mean_and_takes_the_variance(picture):
    wide = blur(picture, 3.0)
    torch.testing.assert_close(wide.mean(), picture.mean(), atol=0.02, rtol=0)
    assert wide.std() < 0.7 * picture.std()
    constant = torch.full((3, 40, 40), 0.3)
    torch.testing.assert_close(blur(constant, 2.0), constant)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fog", 1), "Unknown distortion 'fog': choose from blur"),
        (("blur", 0), "Level 0 of 'blur': it must be 1 to 5"),
        (("blur", 6), "Level 6"),
    ],
)
def test_unknown_distortions_are_refused(picture, arguments, said):
    with pytest.raises(ValueError, match=said):
        distort(picture, 8, *arguments)


def test_a_margin_too_small_is_refused(picture):
    with pytest.raises(ValueError, match="must not exceed the margin"):
        distort(picture, 4, "shift", 5)
    with pytest.raises(ValueError, match="too small for this distortion"):
        distort(picture, 1, "rotation", 5)


def test_the_set_has_every_step_of_every_kind(picture_folder):
    ratings = GeneratedRatings(picture_folder, size=64)
    assert len(ratings.names) == 6
    assert len(ratings.pairs) == 6 * 7 * 5
    assert ratings.reference("p0.png").shape == (3, 48, 48)
    assert {pair.scale for pair in ratings.pairs} == set(KINDS)
    assert all(pair.difference == pair.level for pair in ratings.pairs)
    assert [p.reference for p in ratings.pairs] == sorted(p.reference for p in ratings.pairs)
    again = GeneratedRatings(picture_folder, size=64)
    for pair in ratings.pairs[::17]:
        assert torch.equal(ratings.distorted(pair), again.distorted(pair))


def test_a_limit_draws_by_seed(picture_folder):
    chosen = [GeneratedRatings(picture_folder, size=64, limit=2, seed=seed).names for seed in range(6)]
    assert {len(names) for names in chosen} == {2}
    assert len({tuple(names) for names in chosen}) > 1
    assert chosen[3] == GeneratedRatings(picture_folder, size=64, limit=2, seed=3).names


def test_large_images_are_scaled_down(picture_folder):
    Image.new("RGB", (300, 200), "red").save(picture_folder / "wide.png")
    pixels = np.array(Image.open(picture_folder / "wide.png"))
    pixels[:, 50:150] = 255
    Image.fromarray(pixels).save(picture_folder / "wide.png")
    picture = GeneratedRatings(picture_folder, size=64).picture("wide.png")
    assert picture.shape == (3, 64, 64)
    assert torch.equal(picture[:, 32, 10], torch.ones(3))  # column 50 + 10 * 200 / 64 of the file
    assert torch.equal(picture[:, 32, 50], torch.tensor([1.0, 0, 0]))


def test_images_that_cannot_serve_are_named(picture_folder, tmp_path):
    Image.new("RGB", (70, 70), "grey").save(picture_folder / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png is constant .* Remove it"):
        GeneratedRatings(picture_folder, size=64).reference("plain.png")
    with pytest.raises(ValueError, match=r"Image too small: .*p0\.png has 64 x 64 pixels, at least 128 x 128"):
        GeneratedRatings(picture_folder).reference("p0.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No images \(\.jpg.*which holds nothing"):
        GeneratedRatings(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        GeneratedRatings(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"\['fog'\]: choose from blur"):
        GeneratedRatings(picture_folder, kinds=["blur", "fog"])
    with pytest.raises(ValueError, match="size = 32, limit = None"):
        GeneratedRatings(picture_folder, size=32)
