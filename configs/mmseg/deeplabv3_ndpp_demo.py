# The demo: generated streets, made on first use; trains from scratch on two CPU cores.
_base_ = ["./_base_/deeplabv3_r18_small.py", "./_base_/streets.py"]
max_iters = 500
model = dict(
    type="NDPPModel",
    ndpp=dict(architecture="EncoderDecoder", preset="fast", task="cityscapes"),
    data_preprocessor=dict(size=(96, 128)),
    backbone=dict(stem_channels=32, base_channels=32),  # half of R18's width
    decode_head=dict(num_classes=8, in_channels=256, channels=64),
    auxiliary_head=dict(num_classes=8, in_channels=128, channels=32),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, begin=0, end=40, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=40, end=max_iters, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=125)
default_hooks = dict(checkpoint=dict(interval=250))
