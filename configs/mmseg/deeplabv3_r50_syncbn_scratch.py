# Baseline from scratch: SyncBN, learning rate 0.01 (ND++, Table 6: mIoU 69.30).
_base_ = [
    "./_base_/deeplabv3_r50-d8.py",
    "./_base_/cityscapes.py",
    "./_base_/schedule_200e.py",
    "./_base_/runtime.py",
]
