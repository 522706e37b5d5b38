# ND++ from scratch: learning rate 0.1 (ND++, Table 6: mIoU 72.69). Every field of WhiteningConfig is a key of `ndpp`.
_base_ = "./deeplabv3_r50_syncbn_scratch.py"
model = dict(type="NDPPModel", ndpp=dict(architecture="EncoderDecoder", preset="paper", task="cityscapes"))
optim_wrapper = dict(optimizer=dict(lr=0.1))
