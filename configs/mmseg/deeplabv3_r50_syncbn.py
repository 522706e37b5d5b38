# Baseline, fine-tuned from ImageNet: SyncBN, learning rate 0.01 (ND++, Table 6: mIoU 75.70).
_base_ = "./deeplabv3_r50_syncbn_scratch.py"
model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnet50_v1c")))
