# Baseline in batches of 64 (8 images on each of 8 GPUs), as many epochs.
_base_ = "./deeplabv3_r50_syncbn_scratch.py"
max_iters = 9297
train_dataloader = dict(batch_size=8)
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=500)
