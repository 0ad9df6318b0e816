"""Loggers: callbacks that write each epoch's metrics to TensorBoard, MLflow, or Weights & Biases."""

from twotower.training.loggers.base import LOGGERS, Logger
from twotower.training.loggers.mlflow import MLflow
from twotower.training.loggers.tensorboard import TensorBoard
from twotower.training.loggers.wandb import WandB

__all__ = ["LOGGERS", "Logger", "MLflow", "TensorBoard", "WandB"]
