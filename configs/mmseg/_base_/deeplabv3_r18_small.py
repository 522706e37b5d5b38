# DeepLabv3 on ResNet-18 for small images and few classes, trained from scratch.
_base_ = ["./deeplabv3_r50-d8.py", "./runtime.py"]
max_iters = 2000
model = dict(
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128, dilations=(1, 3, 6, 9)),
    auxiliary_head=dict(in_channels=256, channels=64),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.0005))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=50, end=max_iters, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500), logger=dict(interval=10))
