"""What config keys and variables mean whose code says it nowhere in words; tests hold the names to the code."""

# Keys of MODEL.NDPP that are no fields of WhiteningConfig: what they mean is written here, their default is read.
NODE_KEYS = {
    "META_ARCHITECTURE": "what `MODEL.META_ARCHITECTURE: NDPPModel` builds and converts",
    "PRESET": "`fast` or `paper`",
    "TASK": "`coco`, `imagenet` or `cityscapes`: how densely positions are sampled",
    "RULES": 'exceptions by name, pattern or type: `{"*.fpn_*": {EPS: 0.05}, "*.stem.*": False}`',
    "ZERO_INIT_RESIDUAL": "start residual branches at zero, for training from scratch: no norm keeps their sum small",
    "CALIBRATE": "start as ND++ with the function of `MODEL.WEIGHTS`, which has norms",
    "CALIBRATE_BATCHES": "training batches for the statistics of that",
    "VERIFY": "prove on a blank image that every converted layer runs",
}
BACKBONE_KEYS = {
    "POOLING.PATTERN": "which bottlenecks of `build_pooling_resnet_fpn_backbone` pool",
    "TIMM.NAME": "network of `build_timm_fpn_backbone`: any of timm's with feature maps",
    "TIMM.WEIGHTS": "file of its weights by timm's names",
    "TIMM.OUT_INDICES": "which of its maps; empty for all",
    "TIMM.NORM": "empty leaves its batch norms, `FrozenBN` freezes them, `SyncBN` synchronises them",
}
SECTION_KEYS = {
    "architecture": "what `NDPPModel` builds and converts, such as `EncoderDecoder`",
    "preset": "`fast` (default) or `paper`",
    "task": "`cityscapes` (default), `coco` or `imagenet`",
    "rules": "exceptions by name, pattern or type",
    "calibrate": "start as ND++ with the function of the weights at hand, which have norms",
    "calibrate_batches": "training batches for the statistics of that",
    "verify": "prove on a blank image that every converted layer runs (on by default)",
}
VARIABLES = {
    "NDPP_HOME": "cache of weights and generated data (default `~/.cache/ndpp_dense`)",
    "NDPP_ZOO_MIRROR": "folders or servers to try first for weights",
    "NDPP_ZOO_INDEX": "an index of models of your own",
    "NDPP_OFFLINE": "1 forbids the network",
    "NDPP_IMAGE_RANGE": "`LOW:HIGH`, the range of grey images of more than 8 bits",
    "NDPP_DEBUG": "1 shows tracebacks, as `--traceback` does",
}
