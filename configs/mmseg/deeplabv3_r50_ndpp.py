# ND++ fine-tuned from ImageNet (ND++, Table 6: mIoU 77.50). There is no published ND++ ResNetV1c: give your own by
# --cfg-options model.backbone.init_cfg.checkpoint=FILE, or train from scratch.
_base_ = "./deeplabv3_r50_ndpp_scratch.py"
model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="resnet50_v1c_ndpp.pth")))
