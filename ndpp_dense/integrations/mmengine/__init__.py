"""ND++ in MMEngine, for every project on it: ``custom_imports = dict(imports=["ndpp_dense.integrations.mmengine"])``.

Registers layers, hooks, the check of pretrained weights and ``ndpp://NAME`` as a checkpoint. Nothing here knows a task.
"""

from ndpp_dense.integrations.mmengine.compat import prepare_mmengine

prepare_mmengine()

from ndpp_dense.integrations.mmengine.checkpoint import NDPPCheckpointHook  # noqa: E402
from ndpp_dense.integrations.mmengine.hooks import NDPPResumeHook, NDPPStatsHook  # noqa: E402
from ndpp_dense.integrations.mmengine.layers import NoNorm  # noqa: E402
from ndpp_dense.integrations.mmengine.loaded import NDPPLoadHook  # noqa: E402
from ndpp_dense.integrations.mmengine.nan_guard import NDPPNaNGuardHook  # noqa: E402
from ndpp_dense.integrations.mmengine.pretrained import NDPPPretrainedInit  # noqa: E402
from ndpp_dense.integrations.mmengine.reading import load_from_local  # noqa: E402  (no checkpoint runs code from here on)
from ndpp_dense.integrations.mmengine.runner import NDPPRunner  # noqa: E402
from ndpp_dense.integrations.mmengine.stop import NDPPStopHook  # noqa: E402
from ndpp_dense.integrations.mmengine.zoo import load_from_zoo  # noqa: E402  (ndpp://NAME is a checkpoint from here on)

__all__ = [
    "NDPPCheckpointHook",
    "NDPPLoadHook",
    "NDPPNaNGuardHook",
    "NDPPPretrainedInit",
    "NDPPResumeHook",
    "NDPPRunner",
    "NDPPStatsHook",
    "NDPPStopHook",
    "NoNorm",
    "load_from_local",
    "load_from_zoo",
    "prepare_mmengine",
]
