"""Which columns each tower reads, and why it leaves the others out."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pyarrow as pa
import pytest

from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError
from twotower.recipes.config import Config, ModelConfig
from twotower.recipes.inputs import Inputs

ROWS = 12


def shop(**columns: list[object]) -> Dataset:
    """A log whose candidate table has these columns besides the id."""
    log = pa.table(
        {"who": [1, 2] * ROWS, "sku": [n % ROWS for n in range(2 * ROWS)], "at": range(2 * ROWS), "amount": [1] * 24}
    )
    items = pa.table({"sku": range(ROWS), **columns})
    return from_tables(log, query_id="who", candidate_id="sku", time="at", weight="amount", candidates=items)


def lines(data: Dataset, model: ModelConfig | None = None) -> list[str]:
    config = Config(model=model or ModelConfig())
    return config.model.columns(data, config.resolved_recipe(data)).lines()


@pytest.mark.filterwarnings("ignore::twotower.errors.DataWarning")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([None] * ROWS, "leaves out extra: every row is null"),
        ([f"{n}.50" for n in range(ROWS)], "leaves out extra: text that looks like numbers, such as '0.50': cast"),
        ([f"${n}" for n in range(ROWS)], "leaves out extra: text that looks like numbers, such as '$0': cast"),
        ([f"2025-01-{n + 1:02}" for n in range(ROWS)], "text that looks like dates, such as '2025-01-01': cast"),
        ([f"colour{n}" for n in range(ROWS)], "leaves out extra: too few rows share a label: 12 labels in 12 rows"),
        ([Decimal(n) for n in range(ROWS)], "extra (20 buckets)"),
        (["8001", "3000"] * 6, "extra (labels; looks like numbers: cast the column to read it as numbers)"),
        ([f"{n} EUR" for n in range(ROWS)], "extra (words; looks like numbers: cast the column to read it as numbers)"),
        (["red", "blue"] * 6, "extra (labels)"),
        ([f"the item {n}" for n in range(ROWS)], "extra (words)"),
        (list(range(ROWS)), "extra (20 buckets)"),
        ([["a", "b"]] * ROWS, "extra (lists of labels)"),
    ],
)
def test_each_column_is_read_or_has_a_reason(values: list[object], said: str) -> None:
    data = shop(extra=values)
    assert any(line.startswith("candidate tower ") and said in line for line in lines(data))
    config = Config()
    recipe = config.resolved_recipe(data)
    columns = config.model.columns(data, recipe).candidate
    read = {feature.column for feature in config.model.build(data, recipe).candidate.features}
    assert {use.column for use in columns if use.read_as} == read
    assert all(bool(use.read_as) != bool(use.why_not) for use in columns)


def test_the_query_tower_says_what_it_makes_of_the_log() -> None:
    said = lines(shop(), ModelConfig(reach="before"))
    assert said[0].startswith("query tower reads: who (id), at (20 buckets, standardised, time between events, ")
    assert said[0].endswith("sku (earlier choices)")
    assert "query tower leaves out amount: it is the weight of the events" in said


@pytest.mark.parametrize("inputs", ["log", "tutorial"])
def test_fewer_inputs_leave_attributes_out(inputs: Inputs) -> None:
    said = lines(shop(price=list(range(ROWS))), ModelConfig(inputs=inputs))
    assert f'candidate tower leaves out price: inputs = "{inputs}" reads only the words of candidates' in said


def test_columns_that_no_given_feature_names_are_left_out() -> None:
    given = ModelConfig(
        query=[{"kind": "category", "column": "who"}], candidate=[{"kind": "category", "column": "sku"}]
    )
    said = lines(shop(price=list(range(ROWS))), given)
    assert said[:2] == ["query tower reads: who (id)", "candidate tower reads: sku (id)"]
    assert "candidate tower leaves out price: no [[model.candidate]] names it" in said
    assert "query tower leaves out amount: no [[model.query]] names it" in said


@pytest.mark.parametrize(("tower", "column"), [("query", "whoo"), ("candidate", "skus")])
def test_a_feature_of_a_missing_column_is_refused_before_anything_is_trained(tower: str, column: str) -> None:
    model = msgspec.structs.replace(ModelConfig(), **{tower: ({"kind": "category", "column": column},)})
    with pytest.raises(ConfigError, match=rf"\[\[model.{tower}\]\] column = '{column}' .*did you mean '{column[:-1]}'"):
        lines(shop(), model)
