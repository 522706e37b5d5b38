# ND++ from scratch at learning rate 1.0 without momentum (ND++, Table 7: mIoU 71.64).
_base_ = "./deeplabv3_r50_ndpp_scratch.py"
optim_wrapper = dict(optimizer=dict(lr=1.0, momentum=0.0))
