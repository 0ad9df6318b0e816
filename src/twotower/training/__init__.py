"""Training: optimisers, schedules, the training loop, history, callbacks, loggers and checkpoints."""

from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.training.callbacks import Callback, ProgressBar, TrainingState
from twotower.training.loggers import LOGGERS, Logger, MLflow, TensorBoard, WandB
from twotower.training.moments import Moments
from twotower.training.optimizers import Adagrad, AdamW, Constant, Cosine
from twotower.training.settings import EarlyStopping
from twotower.training.trainer import Trainer

__all__ = [
    "LOGGERS",
    "Adagrad",
    "AdamW",
    "Callback",
    "Constant",
    "Cosine",
    "EarlyStopping",
    "Epoch",
    "Logger",
    "MLflow",
    "Moments",
    "ProgressBar",
    "TensorBoard",
    "Trainer",
    "TrainingHistory",
    "TrainingState",
    "WandB",
]
