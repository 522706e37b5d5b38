# Baseline on CamVid: group normalisation.
_base_ = "./deeplabv3_r18_syncbn_camvid.py"
norm_cfg = dict(type="GN", num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
    decode_head=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
    auxiliary_head=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
)
