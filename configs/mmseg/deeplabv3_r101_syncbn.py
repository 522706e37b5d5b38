# Baseline on ResNet-101, fine-tuned from ImageNet (ND++, Table 6: mIoU 77.28).
_base_ = "./deeplabv3_r50_syncbn.py"
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="open-mmlab://resnet101_v1c")))
