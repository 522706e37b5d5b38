"""Asked to stop, a run saves; damaged checkpoints give way to older ones; a config fits other numbers of ranks."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ndpp_dense.distributed.stopping import StoppedEarly, finishing_the_step, watching_for_stop
from ndpp_dense.integrations.mmengine import checkpoint, hooks
from ndpp_dense.integrations.mmengine.checkpoint import newest_sound
from ndpp_dense.integrations.mmengine.processes import auto_scale
from ndpp_dense.integrations.mmseg.run_config import choose_resumed
from ndpp_dense.weights.files import read_checkpoint

pytestmark = pytest.mark.mmseg
LENGTH = {"train_cfg": {"max_iters": 5, "val_interval": 9}, "default_hooks__checkpoint__interval": 2}


class Scheduler(Hook):
    """Sends the signal in the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_resumes_to_the_same_bits(run_config, same_weights, tmp_path):
    Runner.from_cfg(run_config("whole", **LENGTH)).train()
    runner = Runner.from_cfg(run_config("run", **LENGTH))
    runner.register_hook(Scheduler())
    with watching_for_stop(), pytest.raises(StoppedEarly, match="after iteration 3 of 5: .*iter_3.pth is complete"):
        runner.train()
    config = run_config("run", **LENGTH)
    choose_resumed(config)
    assert (config.resume, config.load_from) == (True, str(tmp_path / "run" / "iter_3.pth"))
    Runner.from_cfg(config).train()
    one, other = (read_checkpoint(tmp_path / name / "iter_5.pth") for name in ("whole", "run"))
    assert same_weights(one["state_dict"], other["state_dict"]) == []


class InEvaluation(Hook):
    """Sends the signal in the first batch of the first evaluation."""

    def __init__(self):
        self.seen = 0

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.seen += 1
        if self.seen == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("saving", [2, 3])
def test_a_run_stopped_while_it_evaluates_resumes_to_the_same_bits(run_config, same_weights, tmp_path, saving):
    length = {"train_cfg": {"max_iters": 4, "val_interval": 2}, "default_hooks__checkpoint__interval": saving}
    averaging = [{"type": "EMAHook", "momentum": 0.3}]
    for name in ("whole", "run"):
        config = run_config(name, **length)
        config.custom_hooks += averaging
        runner = Runner.from_cfg(config)
        if name == "whole":
            runner.train()
            continue
        runner.register_hook(hook := InEvaluation())
        with watching_for_stop(), finishing_the_step(), pytest.raises(StoppedEarly, match="iter_2.pth is c") as stopped:
            runner.train()
        assert (hook.seen, stopped.value.code) == (1, 130)  # of two batches
    config = run_config("run", **length)
    config.custom_hooks += averaging
    choose_resumed(config)
    Runner.from_cfg(config).train()
    one, other = (read_checkpoint(tmp_path / name / "iter_4.pth") for name in ("whole", "run"))
    for key in ("state_dict", "ema_state_dict"):
        assert same_weights(one[key], other[key]) == []


def test_changed_settings_are_said_with_those_that_count(run_config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(hooks, "print_log", lambda message, **_: said.append(message))
    Runner.from_cfg(run_config("run", train_cfg__max_iters=1)).train()
    changed = {
        "train_cfg__max_iters": 2,
        "optim_wrapper__optimizer__lr": 0.5,
        "optim_wrapper__optimizer__momentum": 0.5,
    }
    config = run_config("run", randomness__seed=9, **changed)
    choose_resumed(config)
    runner = Runner.from_cfg(config)
    runner.train()
    lines = [line for line in said if "in the run that is resumed" in line]
    assert [line.split()[0] for line in lines] == [
        "optim_wrapper.optimizer.lr",
        "optim_wrapper.optimizer.momentum",
        "randomness.seed",
        "train_cfg.max_iters",
    ]
    assert [line.rsplit(": ", 1)[1].startswith("the checkpoint's") for line in lines] == [True, True, True, False]
    group = runner.optim_wrapper.param_groups[0]
    assert (group["momentum"], group["initial_lr"], runner.seed) == (0.9, 0.05, 0)
    config = run_config("run", optim_wrapper__optimizer__type="Adam", optim_wrapper__optimizer__momentum=0.9)
    del config.optim_wrapper.optimizer["momentum"]
    choose_resumed(config)
    with pytest.raises(ValueError, match="state of an optimizer 'SGD', and this run has 'Adam'"):
        Runner.from_cfg(config).train()


def test_the_checkpoint_before_goes_only_once_the_next_is_there(run_config, tmp_path, monkeypatch):
    put = checkpoint.NDPPCheckpointBackend.put

    def full(self, obj, filepath):
        if filepath.endswith("iter_3.pth"):
            raise OSError(28, "No space left on device")
        put(self, obj, filepath)

    monkeypatch.setattr(checkpoint.NDPPCheckpointBackend, "put", full)
    saving = {"default_hooks__checkpoint__interval": 1, "default_hooks__checkpoint__max_keep_ckpts": 1}
    with pytest.raises(OSError, match="No space left"):
        Runner.from_cfg(run_config("run", train_cfg__max_iters=3, train_cfg__val_interval=9, **saving)).train()
    assert [file.name for file in (tmp_path / "run").glob("*.pth")] == ["iter_2.pth"]
    assert newest_sound(tmp_path / "run") == str(tmp_path / "run" / "iter_2.pth")


def write(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        torch.save({"state_dict": {"w": torch.zeros(999)}, "meta": {}}, folder / name)
    (folder / "last_checkpoint").write_text(str(folder / names[-1]))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint, "_warn", said.append)
    write(tmp_path, "iter_90.pth", "iter_100.pth", "best_mIoU_iter_90.pth", "iter_110.pth")
    assert newest_sound(tmp_path) == str(tmp_path / "iter_110.pth")
    for name, size in (("iter_110.pth", 700), ("iter_100.pth", 0)):
        os.truncate(tmp_path / name, size)
    assert newest_sound(tmp_path) == str(tmp_path / "iter_90.pth")
    assert len(said) == 1
    assert "Falling back to the checkpoint before" in said[0]
    os.truncate(tmp_path / "iter_90.pth", 0)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is sound.*iter_110.pth \(700 bytes\).*--resume"):
        newest_sound(tmp_path)


def test_nothing_to_resume_starts_from_the_weights_of_the_config(run_config, tmp_path):
    config = run_config("empty", resume=True, load_from="weights.pth")
    choose_resumed(config)
    assert (config.resume, config.load_from) == (False, "weights.pth")


def test_learning_rate_and_schedule_follow_the_processes(run_config):
    config = run_config(train_cfg={"max_iters": 80, "val_interval": 20})
    rate, end = config.optim_wrapper.optimizer.lr, config.param_scheduler[-1].end
    lines = auto_scale(config, 2, 8)
    assert config.optim_wrapper.optimizer.lr == 4 * rate
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (20, 5)
    assert config.param_scheduler[-1].end == end // 4
    assert lines[0] == "scaled from 2 to 8 process(es): batch 2 a process, 16 in all"
    assert "iterations 80 -> 20, schedule and intervals with them" in lines[-1]
