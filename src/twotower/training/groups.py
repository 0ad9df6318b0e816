"""Which parameters of a model learn at which rate: embedding tables, dense layers, the temperature."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from torch import nn

from twotower.features import Feature
from twotower.features.lookups import Table
from twotower.model.two_tower import TwoTower, features_of

Updates = Literal["auto", "dense", "lazy"]
"""How embedding tables are updated: all rows, those of the batch, or whichever is faster by the table's size."""

WORTH_IT = 10
"""Rows of a table for each row that a step may look up, from which on lazy updates are faster.

`benchmarks/sparse_updates.py` finds it between 4 (Adagrad) and 12 (AdamW) where few rows are drawn twice.
"""


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    embedding_learning_rate: float | None,
    embedding_weight_decay: float | None,
) -> list[dict[str, Any]]:
    """The parameters in groups for an optimiser, each with its rate and decay; `initial_lr` is what schedules scale.

    An embedding table is what a feature has in its attribute `table`; all else that features have, such as a
    recurrent unit or a missing number's value, counts as dense. Where nothing is given for embeddings they have
    the rate and decay of the dense layers; a learned temperature has their rate and no decay.

    Example:
        >>> from twotower.features import Hashed
        >>> from twotower.model import Tower
        >>> tower = Tower([Hashed("device", buckets=9, dim=2)], layers=[4])
        >>> for group in parameter_groups(tower, 0.01, 0.0, 0.1, None):
        ...     print(group["lr"], [tuple(parameter.shape) for parameter in group["params"]])
        0.01 [(4, 2), (4,)]
        0.1 [(10, 2)]
    """
    tables = {id(parameter) for parameter in _tables(model)}
    temperature = model.log_temperature if isinstance(model, TwoTower) else None
    dense, embedding, undecayed = [], [], []
    for parameter in model.parameters():
        if id(parameter) in tables:
            embedding.append(parameter)
        elif parameter is temperature:
            undecayed.append(parameter)
        else:
            dense.append(parameter)
    table_rate = learning_rate if embedding_learning_rate is None else embedding_learning_rate
    table_decay = weight_decay if embedding_weight_decay is None else embedding_weight_decay
    groups = (
        (dense, learning_rate, weight_decay),
        (embedding, table_rate, table_decay),
        (undecayed, learning_rate, 0.0),
    )
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for parameters, rate, decay in groups
        if parameters
    ]


def _tables(model: nn.Module) -> list[nn.Parameter]:
    return [
        parameter
        for feature in model.modules()
        if isinstance(feature, Feature)
        for name, parameter in feature.named_parameters()
        if name.split(".")[0] == "table"
    ]


def look_ups(model: TwoTower, events: int, candidates: int) -> Counter[Table]:
    """How many rows of each table a step looks up, at most.

    Args:
        model: A model that has learned from data.
        events: Events of a step.
        candidates: Candidates that a step embeds.
    """
    found: Counter[Table] = Counter()
    for tower, times in ((model.query, events), (model.candidate, candidates)):
        for feature in features_of(tower):
            for table, rows in feature.look_ups:
                found[table] += rows * times
    return found


def lazy_tables(groups: list[dict[str, Any]], updates: Updates, looked_up: Counter[Table]) -> list[Table]:
    """The tables to update lazily.

    Args:
        groups: The parameters, from `parameter_groups`.
        updates: `dense` for none of them, `lazy` for all, `auto` for those large for what a step looks up.
        looked_up: How many rows of each table a step looks up, at most; a table that it lacks is not large.
    """
    tables = [parameter for group in groups for parameter in group["params"] if isinstance(parameter, Table)]
    if updates == "auto":
        return [table for table in tables if table in looked_up and len(table) >= WORTH_IT * looked_up[table]]
    return tables if updates == "lazy" else []
