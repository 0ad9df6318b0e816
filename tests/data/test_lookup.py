from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.lookup import IdRows

EXTREMES = [-(2**63), 2**63 - 1, 0]


@given(
    st.lists(st.integers(-40, 40) | st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True),
    st.lists(st.integers(-60, 60) | st.integers(-(2**63), 2**63 - 1)),
)
def test_rows_of_integers_are_their_places(known: list[int], asked: list[int]) -> None:
    place = {value: row for row, value in enumerate(known)}
    wanted = [*asked, *known, *EXTREMES]
    found = IdRows(pa.chunked_array([pa.array(known, pa.int64())])).of(pa.chunked_array([pa.array(wanted, pa.int64())]))
    assert found.dtype == np.int64
    assert found.tolist() == [place.get(value, -1) for value in wanted]


@pytest.mark.parametrize("kind", [pa.string(), pa.uint64(), pa.int32()])
def test_rows_of_other_ids(kind: pa.DataType) -> None:
    known = pa.chunked_array([pa.array([7, 3, 2000])]).cast(kind)
    asked = pa.chunked_array([pa.array([3, 4]), pa.array([2000, 0, 7])]).cast(kind)
    assert IdRows(known).of(asked).tolist() == [1, -1, 2, -1, 0]
