# What every run has: MMSegmentation's defaults, and the hooks of ndpp_dense.
custom_imports = dict(imports=["ndpp_dense.integrations.mmseg"])
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)  # without a seed a resumed run shuffles anew

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="NDPPCheckpointHook", by_epoch=False, interval=4000, max_keep_ckpts=2, save_best="mIoU"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
custom_hooks = [
    dict(type="NDPPNaNGuardHook"),
    dict(type="NDPPStatsHook", num_batches=20),
    dict(type="NDPPResumeHook"),
    dict(type="NDPPReportHook"),
    dict(type="NDPPStopHook"),
    dict(type="NDPPLoadHook"),
]

val_evaluator = dict(type="ClassIoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
