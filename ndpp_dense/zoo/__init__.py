"""The model zoo: an index of weights, and weights that arrive whole, or say why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndpp_dense.lazy_names import lazy_names

if TYPE_CHECKING:
    from ndpp_dense.zoo.addresses import as_address
    from ndpp_dense.zoo.cache import Cache
    from ndpp_dense.zoo.download import local_copy
    from ndpp_dense.zoo.errors import ZooError
    from ndpp_dense.zoo.http import Patience
    from ndpp_dense.zoo.index import SCHEME, ZooIndex, load_index
    from ndpp_dense.zoo.resolver import locate, resolve
    from ndpp_dense.zoo.rows import Metric, ZooFile, ZooModel
    from ndpp_dense.zoo.weights import Checkpoint, load_checkpoint, load_into

# Only what reads weights needs torch.
_HOMES = {
    "SCHEME": "ndpp_dense.zoo.index",
    "Cache": "ndpp_dense.zoo.cache",
    "Checkpoint": "ndpp_dense.zoo.weights",
    "Metric": "ndpp_dense.zoo.rows",
    "Patience": "ndpp_dense.zoo.http",
    "ZooError": "ndpp_dense.zoo.errors",
    "ZooFile": "ndpp_dense.zoo.rows",
    "ZooIndex": "ndpp_dense.zoo.index",
    "ZooModel": "ndpp_dense.zoo.rows",
    "as_address": "ndpp_dense.zoo.addresses",
    "load_checkpoint": "ndpp_dense.zoo.weights",
    "load_index": "ndpp_dense.zoo.index",
    "load_into": "ndpp_dense.zoo.weights",
    "local_copy": "ndpp_dense.zoo.download",
    "locate": "ndpp_dense.zoo.resolver",
    "resolve": "ndpp_dense.zoo.resolver",
}

__all__ = [
    "SCHEME",
    "Cache",
    "Checkpoint",
    "Metric",
    "Patience",
    "ZooError",
    "ZooFile",
    "ZooIndex",
    "ZooModel",
    "as_address",
    "load_checkpoint",
    "load_index",
    "load_into",
    "local_copy",
    "locate",
    "resolve",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
