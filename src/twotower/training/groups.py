"""Parameter groups for weight decay, and the choice of embedding tables to update lazily."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from torch import nn

from twotower.features.lookups import Table
from twotower.model.tower_module import features_of
from twotower.model.two_tower import TwoTower

Updates = Literal["auto", "dense", "lazy"]
"""How embedding tables are updated: all rows, only the batch's rows, or whichever is faster for the table's size."""

MIN_LAZY_RATIO = 10
"""`auto` updates a table lazily if it has at least this many rows per row that a step may look up.

`benchmarks/sparse_updates.py` measures the break-even between 4 (Adagrad) and 12 (AdamW) if few rows repeat in a step.
"""


def parameter_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups the parameters by weight decay, for an optimiser; schedules scale each group's `initial_lr`.

    A learned temperature is not decayed.

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
    """Maximum number of rows of each table that a step looks up.

    Args:
        model: A fitted model.
        events: Events per step.
        candidates: Candidates that a step embeds.
    """
    found: Counter[Table] = Counter()
    for tower, times in ((model.query, events), (model.candidate, candidates)):
        for feature in features_of(tower):
            for table, rows in feature.look_ups:
                found[table] += rows * times
    return found


def lazy_tables(groups: list[dict[str, Any]], updates: Updates, looked_up: Counter[Table]) -> list[Table]:
    """Selects the tables to update lazily.

    Args:
        groups: The parameters, from `parameter_groups`.
        updates: `dense` for none, `lazy` for all, `auto` for tables that are large compared to a step's look-ups.
        looked_up: Maximum number of rows of each table that a step looks up; `auto` ignores tables not in it.
    """
    tables = [parameter for group in groups for parameter in group["params"] if isinstance(parameter, Table)]
    if updates == "auto":
        return [
            table for table in tables if table in looked_up and table.whole_rows >= MIN_LAZY_RATIO * looked_up[table]
        ]
    return tables if updates == "lazy" else []
