"""The model zoo: an index of weights, and weights that arrive whole, or say why not."""

from ndpp_dense.zoo.addresses import as_address
from ndpp_dense.zoo.cache import Cache
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.http import Patience
from ndpp_dense.zoo.index import SCHEME, ZooIndex, load_index
from ndpp_dense.zoo.resolver import locate, resolve
from ndpp_dense.zoo.rows import Metric, ZooFile, ZooModel
from ndpp_dense.zoo.weights import Checkpoint, load_checkpoint, load_into

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
    "locate",
    "resolve",
]
