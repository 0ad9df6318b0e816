"""twotower: deep retrieval for recommender systems in PyTorch.

From an interaction log to a measured candidate generator. See `data` for data sets and splits, `TwoTower`
and `Trainer` for models, `evaluate` for the truth about them, `Retriever` for recommendations.
"""

from twotower import data
from twotower.evaluation import Evaluation, evaluate
from twotower.features import (
    Activity,
    Bucketized,
    Categories,
    Category,
    Cyclic,
    Elapsed,
    Feature,
    Hashed,
    History,
    Normalized,
    Text,
    Vector,
)
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower, load_model, save_model
from twotower.retrieval import Answer, Exact, Hnsw, Recommendation, Retriever, editing
from twotower.training import (
    Adagrad,
    AdamW,
    Callback,
    Constant,
    Cosine,
    EarlyStopping,
    ProgressBar,
    Trainer,
)
from twotower.version import VERSION

__version__ = VERSION

__all__ = [
    "Activity",
    "Adagrad",
    "AdamW",
    "Answer",
    "Bucketized",
    "Callback",
    "Categories",
    "Category",
    "Constant",
    "Cosine",
    "Cyclic",
    "EarlyStopping",
    "Elapsed",
    "Evaluation",
    "Exact",
    "Feature",
    "FullSoftmax",
    "Hashed",
    "History",
    "Hnsw",
    "InBatchSoftmax",
    "Normalized",
    "ProgressBar",
    "Recommendation",
    "Retriever",
    "Text",
    "Tower",
    "Trainer",
    "TwoTower",
    "Vector",
    "__version__",
    "data",
    "editing",
    "evaluate",
    "load_model",
    "save_model",
]
