"""Training: optimisers and schedules, the loop, its history, its callbacks and its checkpoints."""

from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.training.callbacks import Callback, ProgressBar, TrainingState
from twotower.training.optimizers import Adagrad, AdamW, Constant, Cosine
from twotower.training.settings import EarlyStopping
from twotower.training.trainer import Trainer

__all__ = [
    "Adagrad",
    "AdamW",
    "Callback",
    "Constant",
    "Cosine",
    "EarlyStopping",
    "Epoch",
    "ProgressBar",
    "Trainer",
    "TrainingHistory",
    "TrainingState",
]
