"""Perceptual distances on averages of a backbone's maps, sets of human ratings, baselines, and how far they agree."""

from ndpp_dense.lazy_names import lazy_names
from ndpp_dense.robustness.perceptual.backbone import open_stages
from ndpp_dense.robustness.perceptual.baselines import BASELINES, ActivationDistance, open_baselines
from ndpp_dense.robustness.perceptual.correlation import Agreement, Interval, agreement
from ndpp_dense.robustness.perceptual.distance import GapDistance, MeanGapDistance, WeightedDistance, gap_distance
from ndpp_dense.robustness.perceptual.evaluation import evaluate, learned, measure, variants
from ndpp_dense.robustness.perceptual.generated_ratings import GeneratedRatings
from ndpp_dense.robustness.perceptual.invariance import shift_ratios
from ndpp_dense.robustness.perceptual.rating_layouts import LAYOUTS, open_ratings
from ndpp_dense.robustness.perceptual.rating_sets import Pair, RatingSet, ReferenceSplit, split_references
from ndpp_dense.robustness.perceptual.stages import StageMaps
from ndpp_dense.robustness.perceptual.training import fit_weight, train_weight

__all__ = [
    "LAYOUTS",
    "BASELINES",
    "ActivationDistance",
    "Agreement",
    "GapDistance",
    "GeneratedRatings",
    "Interval",
    "MeanGapDistance",
    "RatingSet",
    "Pair",
    "ReferenceSplit",
    "StageMaps",
    "WeightedDistance",
    "agreement",
    "evaluate",
    "fit_weight",
    "gap_distance",
    "learned",
    "measure",
    "open_ratings",
    "open_baselines",
    "open_stages",
    "shift_ratios",
    "split_references",
    "train_weight",
    "variants",
]

# Names of the release before, which work for one more.
_RENAMED = {
    "GeneratedOpinions": "GeneratedRatings",
    "OpinionSet": "RatingSet",
    "PEERS": "BASELINES",
    "open_opinions": "open_ratings",
    "open_peers": "open_baselines",
}

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, __name__), _RENAMED)
