# Baseline on CamVid: DeepLabv3 on ResNet-18 with SyncBN.
_base_ = ["./_base_/deeplabv3_r18_small.py", "./_base_/camvid.py"]
model = dict(
    data_preprocessor=dict(size=(160, 208), seg_pad_val=11),
    decode_head=dict(num_classes=11, ignore_index=11),
    auxiliary_head=dict(num_classes=11, ignore_index=11),
)
val_evaluator = dict(ignore_index=11)
test_evaluator = dict(ignore_index=11)
