"""twotower: deep retrieval for recommender systems in PyTorch.

From an interaction log to an evaluated candidate generator. See `data` for data sets and splits, `TwoTower`
and `Trainer` for models, `evaluate` for metrics, `Retriever` for recommendations.

Names are imported on first use: PyTorch takes seconds to load, and `twotower --help` need not wait for it.
"""

from importlib import import_module

from twotower.version import VERSION

TYPE_CHECKING = False  # as in typing, whose import would double the time until Ctrl-C is handled

if TYPE_CHECKING:
    from twotower import data
    from twotower.arguments import Settings
    from twotower.evaluation import BASELINES, METRICS, Evaluation
    from twotower.evaluation.evaluate import evaluate
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
        TextEncoder,
        Unified,
        Vector,
    )
    from twotower.model import (
        HEADS,
        LOSSES,
        CrossHead,
        DotHead,
        FullSoftmax,
        InBatchSoftmax,
        InteractionHead,
        Rerank,
        StackHead,
        Tower,
        TowerModule,
        TwoTower,
        functional,
        load_model,
        save_model,
    )
    from twotower.retrieval import INDEXES, Answer, Exact, Hnsw, Recommendation, Retriever, editing
    from twotower.tasks import TASKS, Ranking, Rating, Retrieval, Task, predict
    from twotower.training import (
        LOGGERS,
        Adagrad,
        AdamW,
        Callback,
        Constant,
        Cosine,
        EarlyStopping,
        MLflow,
        Moments,
        ProgressBar,
        TensorBoard,
        Trainer,
        WandB,
    )

__version__ = VERSION

_PARTS = ("arguments", "data", "features", "model", "evaluation", "tasks", "training", "retrieval")
"""Submodules that define the names below; each is also available as an attribute."""

__all__ = [
    "BASELINES",
    "HEADS",
    "INDEXES",
    "LOGGERS",
    "LOSSES",
    "METRICS",
    "TASKS",
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
    "CrossHead",
    "Cyclic",
    "DotHead",
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
    "InteractionHead",
    "MLflow",
    "Moments",
    "Normalized",
    "ProgressBar",
    "Ranking",
    "Rating",
    "Recommendation",
    "Rerank",
    "Retrieval",
    "Retriever",
    "Settings",
    "StackHead",
    "Task",
    "TensorBoard",
    "Text",
    "TextEncoder",
    "Tower",
    "TowerModule",
    "Trainer",
    "TwoTower",
    "Unified",
    "Vector",
    "WandB",
    "__version__",
    "data",
    "editing",
    "evaluate",
    "functional",
    "load_model",
    "predict",
    "save_model",
]


if not TYPE_CHECKING:  # a type checker would otherwise accept every name

    def __getattr__(name: str) -> object:
        if name in _PARTS:
            return import_module(f"twotower.{name}")
        if name in __all__:
            parts = (import_module(f"twotower.{part}") for part in _PARTS)
            return next(getattr(part, name) for part in parts if hasattr(part, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
