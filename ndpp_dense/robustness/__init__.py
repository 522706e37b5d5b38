"""How a network's answers bear shifts, and perceptual distances built on averages that do."""

from ndpp_dense.robustness.correlation import Agreement, Interval, agreement
from ndpp_dense.robustness.generated_opinions import GeneratedOpinions
from ndpp_dense.robustness.opinion_layouts import LAYOUTS, open_opinions
from ndpp_dense.robustness.opinion_sets import OpinionSet, Pair, ReferenceSplit, split_references
from ndpp_dense.robustness.peers import PEERS, ActivationDistance, open_peers
from ndpp_dense.robustness.perceptual import GapDistance, MeanGapDistance, WeightedDistance, gap_distance
from ndpp_dense.robustness.perceptual_backbone import open_stages
from ndpp_dense.robustness.perceptual_evaluation import evaluate, learned, measure, variants
from ndpp_dense.robustness.perceptual_invariance import shift_ratios
from ndpp_dense.robustness.perceptual_stages import StageMaps
from ndpp_dense.robustness.perceptual_training import fit_weight, train_weight

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
