"""Recipes: default settings for training. `tutorial` reproduces TFRS's tutorial; `tuned` aims at the best results."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splits import SplitRule
from twotower.data.streamed_splits import split_log
from twotower.model.layers import Activation
from twotower.model.losses import FullSoftmax, InBatchSoftmax
from twotower.recipes.inputs import Inputs, Reach
from twotower.recipes.shape import Shape
from twotower.training.optimizers import Adagrad, AdamW, Cosine
from twotower.training.settings import EarlyStopping
from twotower.training.trainer import Trainer

RecipeName = Literal["tutorial", "tuned"]

FULL_SOFTMAX_CATALOGUE = 5_000
"""Use the full softmax up to this many candidates: it costs no more than in-batch softmax with `UNIFORM_NEGATIVES`."""

UNIFORM_NEGATIVES = 512
"""Uniform negatives per batch for larger catalogues; without them, rare candidates that are in no batch would never be
pushed down."""

SCHEDULE_BY_SIZE = (
    (1_000, 32, 0.005),
    (10_000, 128, 0.005),
    (50_000, 256, 0.005),
    (1_000_000, 512, 0.005),
    (math.inf, 2048, 0.01),
)
"""(training events below, batch size, learning rate): a small log needs small batches for enough steps, and larger
batches need a higher rate."""

LENGTHS = 3, 6, 12, 24
LENGTHS_OF_LARGE = 6, 12
"""Numbers of epochs to try where histories are read. In the middle of a cosine schedule, the learning rate is still
high, so that its best epoch is often worse than the last one of a schedule of that length."""

UNKNOWN_QUERY_RATES = 0.02, 0.3
"""Lowest and highest share of training events whose query is treated as unknown."""


class Choice(msgspec.Struct, frozen=True):
    """One of several models to compare on the validation part.

    Attributes:
        name: Its name in reports.
        model: Keys of `[model]` that it sets, unless the config does.
    """

    name: str
    model: dict[str, Any]


class Recipe(msgspec.Struct, frozen=True):
    """How to train and validate, and the defaults of `[model]`, which a config may override.

    Attributes:
        name: Its name in reports.
        trainer: All settings of training.
        unknown_rate: Share of ids treated as unknown during training.
        unknown_query_rate: Share of training events whose query is treated as unknown, if features read only earlier
            events.
        inputs: Which features a model gets if the config names none.
        reach: Whether these read only earlier events or events on both sides.
        activation: Activation of hidden layers.
        input_dropout: Share of the features' outputs dropped during training.
        temperature: Divisor of the scores.
        layers: Widths of the dense layers.
        dim: Embedding dimension.
        separate_layers: Widths of the dense layers if the config keeps items separate; None: `layers`.
        cross: Number of cross layers of the query tower, if items are shared.
        cross_rank: Rank of their matrices; None: full.
        share_items: Whether histories and the candidate tower share embeddings.
        history_length: How many items histories read, on each side of the event if `reach` is `around`.
        read_id: Whether the query tower reads the id.
        choices: Models to compare on the validation part; the best is trained on all of train.
        lengths: Numbers of epochs to compare likewise, up to the first that is no better than the one before. Empty:
            only that of the trainer.
        validate_on: `test`, as in the tutorial, or a `validation` part cut from train, after which the model is
            retrained on all of train for the best number of epochs.
    """

    name: RecipeName
    trainer: Trainer
    unknown_rate: float
    unknown_query_rate: float
    inputs: Inputs
    reach: Reach
    activation: Activation
    input_dropout: float
    temperature: float
    layers: tuple[int, ...]
    dim: int
    share_items: bool
    read_id: bool
    validate_on: Literal["test", "validation"]
    choices: tuple[Choice, ...] = ()
    lengths: tuple[int, ...] = ()
    separate_layers: tuple[int, ...] | None = None
    history_length: int = 20
    cross: int = 0
    cross_rank: int | None = None


def recipe(name: RecipeName, train: Log, rule: SplitRule | None, validation: Dataset | None = None) -> Recipe:
    """The recipe with this name.

    Args:
        name: Its name.
        train: The training events.
        rule: How to cut a validation part from them; None to cut none.
        validation: The part to validate on, if given.
    """
    return _tutorial() if name == "tutorial" else _tuned(train, rule, validation)


def _tutorial() -> Recipe:
    """Reproduces *Building deep retrieval models* of TensorFlow Recommenders, including its validation on test."""
    trainer = Trainer(
        epochs=300,
        batch_size=2048,
        optimizer=Adagrad(0.1),
        loss=InBatchSoftmax(log_q=False, reduction="sum"),
        validate_every=5,
    )
    return Recipe(
        name="tutorial",
        trainer=trainer,
        unknown_rate=0.0,
        unknown_query_rate=0.0,
        inputs="tutorial",
        reach="before",
        activation="relu",
        input_dropout=0.0,
        temperature=1.0,
        layers=(64, 32),
        dim=32,
        share_items=False,
        read_id=True,
        validate_on="test",
    )


def _tuned(train: Log, rule: SplitRule | None, validation: Dataset | None) -> Recipe:
    """Mean loss without sampling bias, AdamW with a cosine schedule, early stopping on a validation part."""
    shape = Shape.of(train, rule)
    base = Recipe(
        name="tuned",
        trainer=_trainer(shape),
        unknown_rate=0.02,
        unknown_query_rate=float(np.clip(_new_query_share(train, rule, validation), *UNKNOWN_QUERY_RATES)),
        inputs="all",
        reach="around" if train.time is not None and rule is not None and rule.interpolates else "before",
        activation="gelu",
        input_dropout=0.2,
        temperature=0.5,
        layers=(64, 32),
        dim=32,
        share_items=False,
        read_id=True,
        validate_on="validation",
    )
    return _with_histories(base, shape) if shape.reads_choices else base


def _trainer(shape: Shape) -> Trainer:
    small = shape.candidates <= FULL_SOFTMAX_CATALOGUE
    batch_size, rate = next((size, rate) for events, size, rate in SCHEDULE_BY_SIZE if shape.events < events)
    return Trainer(
        epochs=10,
        batch_size=batch_size,
        optimizer=AdamW(rate, weight_decay=0.05),
        loss=FullSoftmax() if small else InBatchSoftmax(uniform=UNIFORM_NEGATIVES),
        schedule=Cosine(warmup=0.02),
        early_stopping=EarlyStopping(patience=3),
        monitor=shape.monitor if shape.reads_choices else "all.top_100",
    )


def _with_histories(base: Recipe, shape: Shape) -> Recipe:
    """The recipe for queries that come after their history, or have no order: what else they chose tells most.

    Each item has one embedding for histories and as a candidate, so that each event trains it twice. If events have
    times, a cross layer multiplies the means of the history, such as of the latest and of all items. Such models
    overfit, many of them within three epochs: validation decides how long the schedule is, and a higher weight decay
    counters it, too. Whether the id also helps depends on the log; without order, so do wider embeddings. If there are
    many ordered events, embeddings of their own on both sides and a wider layer may be better.
    """
    shared = msgspec.structs.replace(base, input_dropout=0.3, layers=(64,), dim=64, share_items=True, read_id=True)
    if shape.ordered:
        shared = msgspec.structs.replace(shared, cross=1, cross_rank=64)
    if not shape.is_sparse:
        layers = (256, 64) if shape.ordered else base.layers
        shared = msgspec.structs.replace(shared, separate_layers=layers, history_length=50)
    is_dense = shape.ordered and not shape.is_sparse
    if shape.is_large and is_dense:
        settings = {"share_items": True, "layers": (64,), "input_dropout": 0.3}
        apart = {"share_items": False, "layers": (256, 64), "input_dropout": 0.2}
        choices = Choice("shared items", settings), Choice("separate items", apart)
        return msgspec.structs.replace(shared, choices=choices, lengths=LENGTHS_OF_LARGE)
    rate = base.trainer.optimizer.learning_rate
    trainer = msgspec.structs.replace(base.trainer, epochs=6, optimizer=AdamW(rate, weight_decay=0.1))
    shared = msgspec.structs.replace(shared, trainer=trainer, lengths=LENGTHS)
    with_id: tuple[Choice, ...] = (
        Choice("histories", {"read_id": False}),
        Choice("histories and the id", {"read_id": True}),
    )
    if not shape.ordered:
        wide = {"dim": 128, "layers": (128,), "input_dropout": 0.5}
        with_id += (Choice("wide histories", {"read_id": False} | wide),)
    return msgspec.structs.replace(shared, read_id=is_dense, choices=with_id)


def _new_query_share(train: Log, rule: SplitRule | None, validation: Dataset | None) -> float:
    """Share of the validation events whose query is not in the training part; 0 without a validation part."""
    if validation is None and rule is not None:
        cut = split_log(train, rule)
        train, validation = cut.train, cut.test
    if validation is None:
        return 0.0
    counts = train.query_counts()
    known = np.zeros(validation.queries.num_rows, dtype=bool)
    known[: len(counts)] = counts > 0
    return float(np.mean(~known[validation.query_index]))
