"""What is wrong with a command line must be said before anything starts."""

from pathlib import Path

import pytest
import torch

from ndpp_dense.config_files import config_folders
from ndpp_dense.integrations.mmengine.config import read_options
from ndpp_dense.integrations.mmengine.processes import prepare_processes
from ndpp_dense.integrations.mmseg.run_config import build_config, evaluated_checkpoint

pytestmark = pytest.mark.mmseg
CONFIGS = sorted((config_folders()[-1] / "mmseg").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_complete(path):
    from mmengine.config import Config

    config = Config.fromfile(str(path))
    assert config.custom_imports.imports == ["ndpp_dense.integrations.mmseg"]
    assert config.param_scheduler[-1].end == config.train_cfg.max_iters
    classes = {config.model.decode_head.num_classes, config.model.auxiliary_head.num_classes}
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        types = [step.type for step in loader.dataset.pipeline]
        assert types[0] == "LoadCheckedImage"
        check = loader.dataset.pipeline[types.index("LoadCheckedLabels") + 1]
        assert check.type == "CheckLabels"
        assert classes == {check.num_classes}
    crop = next(step for step in config.train_dataloader.dataset.pipeline if step.type == "RandomCrop").crop_size
    assert config.model.data_preprocessor.size == crop
    if "ndpp" in path.stem:
        assert config.model.type == "NDPPModel"
        read_options(config.model.ndpp)


@pytest.mark.parametrize(("kind", "rate"), [("syncbn", 0.01), ("ndpp", 0.1)])
@pytest.mark.parametrize("batch", [16, 32, 64])
def test_batch_sizes_see_as_many_images(kind, rate, batch):
    from mmengine.config import Config

    config = Config.fromfile(str(CONFIGS[0].with_name(f"deeplabv3_r50_{kind}_bs{batch}.py")))
    assert config.train_dataloader.batch_size * 8 == batch
    assert config.train_cfg.max_iters * batch == pytest.approx(200 * 2975, abs=batch)
    assert config.optim_wrapper.optimizer.lr == rate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.backbon.depth": 18}, "Did you mean 'model.backbone.depth'"),
        ({"optim_wrapper.optimizer.learning_rat": 1}, None),
        ({"optim_wrapper.optimizer.momentun": 0}, "Did you mean 'optim_wrapper.optimizer.momentum'"),
        ({"nothing.like.this": 0}, "no key 'nothing.like.this'"),
    ],
)
def test_unknown_options_name_the_nearest(streets, options, message):
    if message is None:  # a new key that is near no other is MMEngine's way to pass more arguments
        build_config("deeplabv3_ndpp_demo", dataset=str(streets), options=options)
        return
    with pytest.raises(KeyError, match=message):
        build_config("deeplabv3_ndpp_demo", dataset=str(streets), options=options)


def test_weights_can_be_given_to_a_config_without_any(streets, tmp_path):
    (tmp_path / "r50.pth").touch()
    options = {
        "model.backbone.init_cfg.type": "Pretrained",
        "model.backbone.init_cfg.checkpoint": str(tmp_path / "r50.pth"),
    }
    config = build_config("deeplabv3_ndpp_demo", dataset=str(streets), options=options)
    assert config.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": str(tmp_path / "r50.pth")}


def test_a_run_without_the_hook_that_fits_the_momentum_is_refused(streets):
    def build(**ndpp):
        options = {"custom_hooks": [{"type": "NDPPNaNGuardHook"}], **ndpp}
        return build_config("deeplabv3_ndpp_demo", dataset=str(streets), options=options)

    with pytest.raises(ValueError, match=r"no NDPPStatsHook.*add dict\(type='NDPPStatsHook'\), or name model.ndpp.mom"):
        build()
    assert build(**{"model.ndpp.momentum": 0.2}).model.ndpp.momentum == 0.2


def test_unknown_ndpp_keys_name_the_nearest(streets):
    with pytest.raises(ValueError, match="Did you mean 'block_size'"):
        build_config("deeplabv3_ndpp_demo", dataset=str(streets), options={"model.ndpp": {"block_sise": 8}})


def test_missing_data_and_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"CityscapesDataset: there is no folder .*leftImg8bit.*--dataset"):
        build_config("deeplabv3_r50_ndpp_scratch")
    for split in ("train", "val"):
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / split).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no image that ends in _leftImg8bit.png"):
        build_config("deeplabv3_r50_ndpp_scratch", dataset=str(tmp_path))
    for split in ("train", "val"):
        (tmp_path / "leftImg8bit" / split / "a_leftImg8bit.png").touch()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images in .* have no labels in .*a_gtFine_labelTrainIds.png"):
        build_config("deeplabv3_r50_ndpp", dataset=str(tmp_path))
    for split in ("train", "val"):
        (tmp_path / "gtFine" / split / "a_gtFine_labelTrainIds.png").touch()
    with pytest.raises(FileNotFoundError, match=r"resnet50_v1c_ndpp.pth' of model.backbone .*checkpoint=FILE"):
        build_config("deeplabv3_r50_ndpp", dataset=str(tmp_path))


def test_unknown_config_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="deeplabv3_ndpp_demo"):
        build_config("deeplabv3_nddp_demo")


def test_folder_and_checkpoint_of_a_run(streets, tmp_path):
    config = build_config("deeplabv3_ndpp_demo", dataset=str(streets))
    assert Path(config.work_dir) == Path("output/deeplabv3_ndpp_demo")
    config.work_dir, config.resume = str(tmp_path), True
    with pytest.raises(FileNotFoundError, match="load_from=FILE"):
        evaluated_checkpoint(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_says_so(streets, monkeypatch):
    with pytest.raises(ValueError, match="--amp needs a GPU"):
        build_config("deeplabv3_ndpp_demo", dataset=str(streets), amp=True)
    for variable in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    config = build_config("deeplabv3_ndpp_demo", dataset=str(streets), launcher="pytorch")
    with pytest.raises(ValueError, match="start the processes with torchrun"):
        prepare_processes(config)
