"""What a user can get wrong in a configuration ends in one line with code 2 that names the value."""

import os
import uuid

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.cli import main  # noqa: E402

pytestmark = pytest.mark.mmseg


@pytest.fixture
def train(streets, tmp_path, monkeypatch, capsys):
    """Returns a function that runs `ndpp train-seg` in this process and returns what it says at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NDPP_DEBUG", raising=False)

    def run(*options, config="deeplabv3_ndpp_demo", words=()):
        given = [f"experiment_name={uuid.uuid4().hex}", "train_dataloader.num_workers=0", *options]
        given.append("train_dataloader.persistent_workers=False")
        common = ["--config", config, "--work-dir", "run"]
        if config == "deeplabv3_ndpp_demo":
            common += ["--dataset", str(streets), "--cfg-options", *given]
        code = main(["train-seg", *words, *common])
        said = capsys.readouterr()
        assert code == 2, said.err[-2000:]
        assert "Traceback" not in said.out + said.err
        return said.err.rsplit("error: ", 1)[-1]

    return run


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train_cfg.max_iters=0", "train_cfg.max_iters is 0, it must be a whole number, at least 1"),
        ("train_cfg.max_iters=abc", "train_cfg.max_iters is 'abc'"),
        ("train_cfg.val_interval=0", "train_cfg.val_interval is 0"),
        (
            "default_hooks.checkpoint.interval=0",
            "checkpoint.interval is 0, it must be a whole number, at least 1, or -1",
        ),
        ("default_hooks.logger.interval=0", "default_hooks.logger.interval is 0"),
        ("train_dataloader.batch_size=0", "train_dataloader.batch_size is 0"),
        ("optim_wrapper.optimizer.lr=-1", "optim_wrapper.optimizer.lr is -1, it must be a finite number, at least 0"),
        ("optim_wrapper.optimizer.lr=nan", "optim_wrapper.optimizer.lr is nan"),
        ("optim_wrapper.accumulative_counts=0", "optim_wrapper.accumulative_counts is 0"),
        ("model.decode_head.num_classes=0", "model.decode_head.num_classes is 0"),
        ("model.decode_head.num_classes=3", "num_classes is 3 and the data set has 8 classes"),
        ("model.decode_head.num_classes=19", "num_classes is 19 and the data set has 8 classes"),
        ("model.test_cfg.mode=nope", "model.test_cfg.mode is 'nope', choose from whole, slide"),
        ("randomness.seed=abc", "randomness.seed is 'abc'"),
        ("model.backbone.type=Nope", "Nope is not in the mmseg::model registry"),
        ("model.backbone.num_stages=9", "AssertionError"),
        ("model.backbone.foo=3", "unexpected keyword argument 'foo'"),
        ("model.backbone.init_cfg=3", "model.backbone.init_cfg is 3, it must be a mapping, such as dict(type='Pretr"),
        ("model.init_cfg=abc", "model.init_cfg is 'abc', it must be a mapping"),
        ("model.backbone.init_cfg.checkpoint=5", "it must be a mapping, such as"),
        ("optim_wrapper.optimizer.type=Nope", "Correct the setting that it is about"),
        ("optim_wrapper.optimizer.lrr=1", "no key 'optim_wrapper.optimizer.lrr'. Did you mean"),
        ("train_dataloader.dataset.pipeline.99.type=X", "train_dataloader.dataset.pipeline has 7 entries"),
        ("optim_wrapper", "--cfg-options optim_wrapper: it must be KEY=VALUE"),
    ],
)
def test_a_wrong_value(train, option, message):
    assert message in train(option)


OUT_OF_RANGE = {
    "optim_wrapper.optimizer.momentum=2": "it must be a finite number, at least 0 and below 1",
    "optim_wrapper.optimizer.weight_decay=-1": "weight_decay is -1",
    "optim_wrapper.optimizer.betas=[0.9,1.5]": "betas is [0.9, 1.5], it must be a list, each entry a finite number",
    "model.data_preprocessor.std=[0,1,1]": "model.data_preprocessor.std is [0, 1, 1]",
    "model.data_preprocessor.seg_pad_val=300": "model.data_preprocessor.seg_pad_val is 300",
    "model.decode_head.dropout_ratio=3": "model.decode_head.dropout_ratio is 3",
    "model.decode_head.loss_decode.loss_weight=-1": "model.decode_head.loss_decode.loss_weight is -1",
    "train_dataloader.num_workers=-1": "train_dataloader.num_workers is -1",
    "default_hooks.checkpoint.max_keep_ckpts=0": "max_keep_ckpts is 0, it must be a whole number, at least 1, or -1",
    "train_dataloader.dataset.pipeline.5.prob=7": "train_dataloader.dataset.pipeline.5.prob is 7",
    "param_scheduler.0.eta_min=-1": "param_scheduler.0.eta_min is -1",
    "param_scheduler.0.power=nan": "param_scheduler.0.power is nan",
    "randomness.seed=99999999999": "randomness.seed is 99999999999",
}


def test_numbers_out_of_range_are_told_together(run_config):
    from ndpp_dense.integrations.mmengine.setting_checks import check_settings
    from ndpp_dense.integrations.mmseg.run import _read

    config = run_config()
    check_settings(config)
    config.merge_from_dict(_read([*OUT_OF_RANGE]))
    with pytest.raises(ValueError, match="the config cannot be used") as error:
        check_settings(config)
    assert [message for message in OUT_OF_RANGE.values() if message not in str(error.value)] == []


CONFIGS = {
    "syntax.py": ("model = dict(\n", "syntax.py cannot be read: SyntaxError"),
    "name.py": ("x = undefined\n", "NameError: name 'undefined' is not defined"),
    "zero.py": ("x = 1 / 0\n", "ZeroDivisionError: division by zero"),
    "empty.py": ("", "describes no model: it needs `model = dict(type=...)`"),
    "orphan.py": ("_base_ = ['gone.py']\n", "_base_ names 'gone.py', and there is no file gone.py"),
    "piped.py": ("_base_ = ['pipe.py']\n", "_base_ names 'pipe.py', and there is no file pipe.py"),
    "self.py": ("_base_ = ['self.py']\n", "builds on itself through _base_: self.py -> self.py"),
    "one.py": ("_base_ = 'two.py'\n", "builds on itself through _base_: one.py -> two.py -> one.py"),
    "list.yaml": ("- a\n", "list.yaml cannot be read"),
    "binary.py": ("\x00\udc80", "binary.py cannot be read"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config(train, name, tmp_path):
    for file, (content, _) in CONFIGS.items():
        (tmp_path / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "two.py").write_text("_base_ = 'one.py'\n")
    os.mkfifo(tmp_path / "pipe.py")
    assert CONFIGS[name][1] in train(config=name)


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors", "empty.pth", "pipe.pth"])
def test_damaged_weights(train, name, tmp_path):
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"junk" * 10)
    assert name in train(words=("--weights", name))
