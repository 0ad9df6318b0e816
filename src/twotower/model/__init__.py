"""Models: towers of features and dense layers, the two-tower model that scores with them, heads and losses."""

from twotower.model import functional
from twotower.model.cross import Cross, DotInteraction
from twotower.model.heads import HEADS, CrossHead, DotHead, Head, InteractionHead, StackHead
from twotower.model.learning import Growth
from twotower.model.losses import LOSSES, FullSoftmax, InBatchSoftmax, Loss
from twotower.model.rerank import Rerank
from twotower.model.saving import load_model, save_model
from twotower.model.tower import Tower
from twotower.model.tower_module import TowerModule
from twotower.model.two_tower import TwoTower

__all__ = [
    "HEADS",
    "LOSSES",
    "Cross",
    "CrossHead",
    "DotHead",
    "DotInteraction",
    "FullSoftmax",
    "Growth",
    "Head",
    "InBatchSoftmax",
    "InteractionHead",
    "Loss",
    "Rerank",
    "StackHead",
    "Tower",
    "TowerModule",
    "TwoTower",
    "functional",
    "load_model",
    "save_model",
]
