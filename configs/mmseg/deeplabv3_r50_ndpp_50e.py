# ND++ fine-tuned for 50 epochs (ND++, Table 6: mIoU 76.47).
_base_ = "./deeplabv3_r50_ndpp.py"
max_iters = 18594
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=2000)
