import re
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ndpp_dense.robustness.perceptual import BASELINES, ActivationDistance, open_baselines
from ndpp_dense.robustness.perceptual.baselines import negative_psnr, ssim_distance


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 24, 30, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def ssim_by_scipy(a, b):
    """The index of Wang et al. (2004) with SciPy's Gaussian window of 11 pixels, windows within the image."""
    found = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        mean_x, mean_y = window(x), window(y)
        var_x, var_y, both = window(x * x) - mean_x**2, window(y * y) - mean_y**2, window(x * y) - mean_x * mean_y
        index = (2 * mean_x * mean_y + 1e-4) * (2 * both + 9e-4)
        found.append(index / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)))
    return np.mean(found)


def window(x):
    return gaussian_filter(x, 1.5, truncate=3.4)[5:-5, 5:-5]  # reaches 5 pixels


def test_ssim_is_that_of_another_implementation(pair):
    for a, b in zip(*pair, strict=True):
        assert float(ssim_distance(a[None], b[None])) == pytest.approx(1 - ssim_by_scipy(a, b), abs=1e-5)


def test_psnr_is_ten_times_the_logarithm(pair):
    expected = 10 * np.log10(((pair[0] - pair[1]).double().numpy() ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(negative_psnr(*pair).numpy(), expected, rtol=1e-5)


def test_equal_and_constant_images_have_finite_distances(pair):
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert negative_psnr(pair[0], pair[0]).tolist() == [-100, -100]
    torch.testing.assert_close(ssim_distance(pair[0], pair[0]), torch.zeros(2), atol=1e-6, rtol=0)
    assert float(ssim_distance(grey, grey)) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(ssim_distance(grey, grey * 0)).all()


def test_one_reference_stands_for_all(pair):
    a, b = pair
    for distance in (negative_psnr, ssim_distance):
        torch.testing.assert_close(distance(a[:1], b), torch.cat([distance(a[:1], x[None]) for x in b]))


def test_ssim_says_that_an_image_is_too_small():
    with pytest.raises(ValueError, match="too small for SSIM: 10 x 30 pixels, its window has 11"):
        ssim_distance(torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30))


def test_activations_are_compared_in_place_and_unit_by_unit(stages, pair):
    a, b = (x[:, :, :24, :24] for x in pair)
    terms = ActivationDistance(stages).terms(a, b)
    expected = []
    for x, y in zip(stages(a), stages(b), strict=True):
        x, y = (z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y))
        expected.append(((x - y) ** 2).mean(dim=(2, 3)))
    torch.testing.assert_close(terms, torch.cat(expected, dim=1))


def test_what_cannot_be_measured_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found, missing = open_baselines()
    assert set(found) == {"psnr", "ssim"}
    assert set(missing) == {"lpips_vgg", "lpips_alex", "dists"}
    for reason in missing.values():
        assert re.fullmatch(
            r"needs (the package .* and )?torchvision's weights \(.*\.pth in \$TORCH_HOME/hub/.*\)", reason
        )
    assert not list(tmp_path.rglob("*"))  # nothing was downloaded
    with pytest.raises(ValueError, match="'lpips': choose from psnr, ssim, lpips_vgg"):
        open_baselines(["lpips"])
    assert set(BASELINES) == set(found) | set(missing)


def test_lpips_and_dists_run_on_torchvisions_weights(monkeypatch, tmp_path):
    pytest.importorskip("lpips", reason="lpips is not installed")
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    built = {"VGG16_Weights": models.vgg16(), "AlexNet_Weights": models.alexnet()}
    for name, model in built.items():
        file = str(getattr(models, name).IMAGENET1K_V1.url).rsplit("/", 1)[-1]
        torch.save(model.state_dict(), folder / file)
    found, missing = open_baselines(["lpips_vgg", "lpips_alex"])
    assert missing == {}
    a, b = torch.rand(2, 3, 3, 64, 64)
    import lpips

    for name, key in (("vgg", "VGG16_Weights"), ("alex", "AlexNet_Weights")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips was written for an older torchvision
            expected = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
        own = {f"net.{n}": built[key].features.state_dict()[n.split(".", 1)[1]] for n in expected.net.state_dict()}
        expected.load_state_dict(own, strict=False)
        with torch.no_grad():
            known = expected(2 * a - 1, 2 * b - 1).flatten()
        torch.testing.assert_close(found[f"lpips_{name}"](a, b), known)
        assert float(found[f"lpips_{name}"](a[:1], a[:1])) == 0
