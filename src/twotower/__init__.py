"""twotower: deep retrieval for recommender systems in PyTorch.

From an interaction log to a measured candidate generator. See `data` for data sets and splits, `TwoTower`
and `Trainer` for models, `evaluate` for the truth about them, `Retriever` for recommendations.
"""

from twotower import data
from twotower.arguments import Settings
from twotower.evaluation import BASELINES, METRICS, Evaluation, evaluate
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
from twotower.model import (
    LOSSES,
    FullSoftmax,
    InBatchSoftmax,
    Tower,
    TowerModule,
    TwoTower,
    functional,
    load_model,
    save_model,
)
from twotower.retrieval import INDEXES, Answer, Exact, Hnsw, Recommendation, Retriever, editing
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
    "BASELINES",
    "INDEXES",
    "LOSSES",
    "METRICS",
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
    "Settings",
    "Text",
    "Tower",
    "TowerModule",
    "Trainer",
    "TwoTower",
    "Vector",
    "__version__",
    "data",
    "editing",
    "evaluate",
    "functional",
    "load_model",
    "save_model",
]
