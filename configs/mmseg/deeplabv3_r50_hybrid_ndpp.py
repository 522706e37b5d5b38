# ND++ from scratch on a ResNet-50 that pools where others convolve (PfLayer, ICLR 2022).
_base_ = "./deeplabv3_r50_ndpp_scratch.py"
model = dict(backbone=dict(type="PoolingResNetV1c", pattern="hybrid"))
