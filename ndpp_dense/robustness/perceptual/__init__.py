"""Perceptual distances on averages of a backbone's maps, opinion sets, peers, and how far they agree."""

from ndpp_dense.robustness.perceptual.backbone import open_stages
from ndpp_dense.robustness.perceptual.correlation import Agreement, Interval, agreement
from ndpp_dense.robustness.perceptual.distance import GapDistance, MeanGapDistance, WeightedDistance, gap_distance
from ndpp_dense.robustness.perceptual.evaluation import evaluate, learned, measure, variants
from ndpp_dense.robustness.perceptual.generated_opinions import GeneratedOpinions
from ndpp_dense.robustness.perceptual.invariance import shift_ratios
from ndpp_dense.robustness.perceptual.opinion_layouts import LAYOUTS, open_opinions
from ndpp_dense.robustness.perceptual.opinion_sets import OpinionSet, Pair, ReferenceSplit, split_references
from ndpp_dense.robustness.perceptual.peers import PEERS, ActivationDistance, open_peers
from ndpp_dense.robustness.perceptual.stages import StageMaps
from ndpp_dense.robustness.perceptual.training import fit_weight, train_weight

__all__ = [
    "LAYOUTS",
    "PEERS",
    "ActivationDistance",
    "Agreement",
    "GapDistance",
    "GeneratedOpinions",
    "Interval",
    "MeanGapDistance",
    "OpinionSet",
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
    "open_opinions",
    "open_peers",
    "open_stages",
    "shift_ratios",
    "split_references",
    "train_weight",
    "variants",
]
