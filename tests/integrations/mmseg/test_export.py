"""One command must turn a checkpoint into an ONNX file that predicts what the trained model predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="mmengine is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: extra 'dev'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: extra 'dev'")


from ndpp_dense.cli import main  # noqa: E402
from ndpp_dense.integrations.mmseg import export  # noqa: E402

pytestmark = pytest.mark.mmseg
CONFIG = "deeplabv3_ndpp_demo"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the demo's model, its running statistics moved, and its checkpoint."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from ndpp_dense.config_files import find_config

    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(str(find_config(CONFIG))).model)
    model.init_weights()
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, 64, 96) * 2 + 1, mode="tensor")
    file = tmp_path_factory.mktemp("run") / "iter_3.pth"
    torch.save({"state_dict": model.state_dict()}, file)
    model.eval()
    return model, file


def command(file, output, *words):
    return main(["export", "--config", CONFIG, "--checkpoint", str(file), "--output", str(output), *words])


def test_the_file_predicts_as_the_trained_model(trained, tmp_path, capsys):
    model, checkpoint = trained
    file = tmp_path / "made" / "model.onnx"
    command(checkpoint, file, "--size", "64", "96")
    printed = capsys.readouterr().out
    assert "model.onnx (1" in printed  # megabytes
    assert float(printed.split()[-1]) < 1e-4
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [argument.name for argument in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    for shape in ((2, 3, 64, 96), (1, 3, 64, 96), (3, 3, 48, 112), (1, 3, 65, 99)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 1.5
        meta = {"img_shape": shape[2:], "ori_shape": shape[2:], "pad_shape": shape[2:]}
        with torch.no_grad():
            expected = model.inference(images, [meta] * shape[0])
        (logits,) = session.run(None, {"images": images.numpy()})
        assert logits.shape == (shape[0], 8, *shape[2:])
        assert expected.abs().max() > 0.1
        assert np.abs(logits - expected.numpy()).max() < 1e-4


def test_a_difference_is_seen(trained, tmp_path, monkeypatch):
    network = export.SegmentationLogits(trained[0])

    class Session:  # a file that holds another network
        def __init__(self, *args, **kwargs):
            pass

        def run(self, names, feeds):
            return [network(torch.from_numpy(feeds["images"])).detach().numpy() + 0.25]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert export.onnx_difference(network, tmp_path / "model.onnx", (1, 64, 64)) == pytest.approx(0.25, abs=1e-5)
    assert trained[0].with_auxiliary_head  # the trained model is left as it was


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "iter_9.pth not found"),
        ({"state_dict": {"backbone.stem.0.weight": torch.zeros(1)}}, "is no checkpoint of"),
    ],
)
def test_errors_are_readable(content, message, tmp_path, capsys):
    file = tmp_path / "iter_9.pth"
    if content is not None:
        torch.save(content, file)
    assert command(file, tmp_path / "model.onnx") == 2
    assert message in capsys.readouterr().err
    assert not Path(tmp_path / "model.onnx").exists()


def test_missing_packages_are_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs onnx and onnxscript: pip install onnx onnxscript onnxruntime"):
        export.export_onnx(trained[0], tmp_path / "model.onnx")
