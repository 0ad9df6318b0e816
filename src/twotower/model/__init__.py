"""Models: towers of features and dense layers, how two towers score, and the losses that train them."""

from twotower.model.losses import FullSoftmax, InBatchSoftmax
from twotower.model.saving import load_model, save_model
from twotower.model.softmax import softmax_loss
from twotower.model.tower import Tower
from twotower.model.two_tower import TwoTower

__all__ = [
    "FullSoftmax",
    "InBatchSoftmax",
    "Tower",
    "TwoTower",
    "load_model",
    "save_model",
    "softmax_loss",
]
