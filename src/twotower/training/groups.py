"""Which parameters of a model decay, and which embedding tables are updated lazily."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from torch import nn

from twotower.features.lookups import Table
from twotower.model.two_tower import TwoTower, features_of

Updates = Literal["auto", "dense", "lazy"]
"""How embedding tables are updated: all rows, those of the batch, or whichever is faster by the table's size."""

WORTH_IT = 10
"""Rows of a table for each row that a step may look up, from which on lazy updates are faster.

`benchmarks/sparse_updates.py` finds it between 4 (Adagrad) and 12 (AdamW) where few rows are drawn twice.
"""


def parameter_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters in groups for an optimiser, each with its decay; `initial_lr` is what schedules scale.

    A learned temperature has no decay.

    Example:
        >>> from twotower.features import Category
        >>> from twotower.model import Tower
        >>> user, item = Tower([Category("user", 2)]), Tower([Category("item", 2)])
        >>> groups = parameter_groups(TwoTower(user, item, learn_temperature=True), 0.01, 0.1)
        >>> [group["weight_decay"] for group in groups]
        [0.1, 0.0]
    """
    temperature = model.log_temperature if isinstance(model, TwoTower) else None
    decayed = [parameter for parameter in model.parameters() if parameter is not temperature]
    groups = [(decayed, weight_decay)] + ([] if temperature is None else [([temperature], 0.0)])
    return [
        {"params": parameters, "lr": learning_rate, "initial_lr": learning_rate, "weight_decay": decay}
        for parameters, decay in groups
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
        return [table for table in tables if table in looked_up and table.whole_rows >= WORTH_IT * looked_up[table]]
    return tables if updates == "lazy" else []
