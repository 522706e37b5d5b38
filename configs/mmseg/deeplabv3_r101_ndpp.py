# ND++ on ResNet-101, fine-tuned from ImageNet (ND++, Table 6: mIoU 79.23).
_base_ = "./deeplabv3_r50_ndpp.py"
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="resnet101_v1c_ndpp.pth")))
