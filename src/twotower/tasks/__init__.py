"""Tasks: training objectives, such as retrieval and rating, with heads, losses, metrics and baselines."""

from twotower.tasks.base import TASKS, BoundTask, Task, TaskLoss
from twotower.tasks.predictor import Predictor, predict
from twotower.tasks.ranking import Ranking
from twotower.tasks.rating import Rating
from twotower.tasks.retrieval import Retrieval
from twotower.tasks.step import Step
from twotower.tasks.validation import TaskValidation

BuiltInTask = Retrieval | Rating | Ranking
"""The tasks of the package."""

__all__ = [
    "TASKS",
    "BoundTask",
    "BuiltInTask",
    "Predictor",
    "Ranking",
    "Rating",
    "Retrieval",
    "Step",
    "Task",
    "TaskLoss",
    "TaskValidation",
    "predict",
]
