"""`check_feature`: tests the contract of a feature."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.features import Feature, feature_from_settings
from twotower.features.base import FEATURES, Columns
from twotower.features.growth import SeenAt


def check_feature(feature: Feature, column: pa.Array | pa.ChunkedArray | Columns) -> None:
    """Checks a feature that has not been fitted yet. This fits it to the column.

    - Its class is registered under its kind, and can be rebuilt from its settings in JSON.
    - It gives `width` finite numbers per row, the same for a row alone as among others, and the same every time.
    - Null raises a `DataError` or gives finite numbers.
    - Restored from its saved state and weights, it gives the same numbers.
    - A gradient reaches each of its parameters.
    - It can grow by unknown values: the numbers for known values stay the same, its tables have exactly the rows that
      `grow` reports, and the grown state can be saved and restored too.

    "The same" means within the tolerances of `torch.testing.assert_close` (for float32, 1e-5 plus 1.3e-6 of the value),
    because a matrix product may round differently in another batch or at another address in memory.

    Features of a record, such as `History`, need the log: check them in a tower with `check_tower`.

    Args:
        feature: The feature.
        column: Its input: a column with at least three rows, or several columns by name.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower import Category
        >>> check_feature(Category("colour", 4), pa.array(["red", "blue", "red", None]))
    """
    columns = _columns(feature, column)
    _check_settings(feature)
    feature.fit_columns(columns)
    feature.eval()
    with torch.no_grad():
        first = _embedded(feature, columns)
        check_same(_embedded(feature, columns), first, "the same rows give different numbers the second time")
    rows = len(next(iter(columns.values())))
    assert first.shape == (rows, feature.width), f"it gives {list(first.shape)}; expected {[rows, feature.width]}"
    assert first.dtype.is_floating_point, f"it gives {first.dtype}; expected floats"
    assert bool(first.isfinite().all()), "it gives numbers that are not finite"
    for row in range(rows):
        alone = _embedded(feature, {name: values.slice(row, 1) for name, values in columns.items()})
        assert torch.allclose(alone[0], first[row], atol=1e-5), f"row {row} alone gives other numbers than among others"
    _check_null(feature, columns)
    _check_restored(feature, columns, first)
    _check_gradient(feature, columns)
    _check_growth(feature, columns)


def _columns(feature: Feature, column: pa.Array | pa.ChunkedArray | Columns) -> dict[str, pa.ChunkedArray]:
    given = {feature.column: column} if isinstance(column, pa.Array | pa.ChunkedArray) else dict(column)
    assert set(feature.learns_from) <= set(given), f"it reads {feature.learns_from}; given {list(given)}"
    chunked = {
        name: pa.chunked_array([values]) if isinstance(values, pa.Array) else values for name, values in given.items()
    }
    assert all(len(values) >= 3 for values in chunked.values()), "expected a column of at least three rows"
    return chunked


def _check_settings(feature: Feature) -> None:
    kind = type(feature).kind
    assert kind in FEATURES, f"kind {kind!r} is not registered"
    assert FEATURES[kind] is type(feature), f"kind {kind!r} is {FEATURES[kind].__name__}, not {type(feature).__name__}"
    again = feature_from_settings(msgspec.json.decode(msgspec.json.encode(feature.settings())))
    assert again.settings() == feature.settings(), f"settings {feature.settings()} became {again.settings()}"
    assert again.width == feature.width, "rebuilt from its settings, it has another width"


def _check_null(feature: Feature, columns: dict[str, pa.ChunkedArray]) -> None:
    nulls = {name: pa.chunked_array([pa.nulls(1, values.type)]) for name, values in columns.items()}
    try:
        given = _embedded(feature, nulls)
    except DataError:
        return
    assert bool(given.isfinite().all()), "null gives numbers that are not finite; expected finite ones or a DataError"


def _check_restored(feature: Feature, columns: dict[str, pa.ChunkedArray], expected: Tensor) -> None:
    again = feature_from_settings(feature.settings())
    again.restore(feature.learned())
    again.load_state_dict(feature.state_dict())
    again.eval()
    check_same(_embedded(again, columns), expected, "restored from its saved state, it gives other numbers")


def _check_gradient(feature: Feature, columns: dict[str, pa.ChunkedArray]) -> None:
    feature.zero_grad()
    parameters = dict(feature.named_parameters())
    if not parameters:
        return
    feature(feature.encode_columns(columns)).sum().backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, f"no gradient reaches {name}"
    feature.zero_grad()


def _check_growth(feature: Feature, columns: dict[str, pa.ChunkedArray]) -> None:
    known = {name: values.slice(1) for name, values in columns.items()}  # all but the first row
    for limit in (-np.inf, 2.0):
        growing = feature_from_settings(feature.settings())
        growing.fit_columns(known)
        growing.eval()
        before, tables = _embedded(growing, known), {name: one.clone() for name, one in growing.named_parameters()}
        times = np.arange(len(next(iter(columns.values()))), dtype=np.float64)
        grown = growing.grow(columns, SeenAt(times, 0.0, limit))
        if limit < 0:
            check_same(_embedded(growing, known), before, "grown, it gives other numbers for known values")
        for name, table in growing.named_parameters():
            rows = grown.get(name)
            expected = tables[name] if rows is None else rows.weights(tables[name])
            assert torch.equal(table, expected), f"grown, {name} has other rows than grow reports"
        _check_restored(growing, columns, _embedded(growing, columns))


def _embedded(feature: Feature, columns: Columns) -> Tensor:
    with torch.no_grad():
        found: Tensor = feature(feature.encode_columns(columns))
    return found


def check_same(given: Tensor, expected: Tensor, otherwise: str) -> None:
    """Raises an AssertionError that begins with `otherwise` unless two tensors are the same up to rounding."""
    torch.testing.assert_close(given, expected, msg=lambda detail: f"{otherwise}: {detail}")
