"""Look-ups whose gradient is sparse: the same embeddings, the same gradient, of the rows looked up alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn import functional as F

from twotower.features import Categories, Category, Hashed, History, Normalized, Text
from twotower.features.encoders import ENCODERS, Window
from twotower.features.lookups import Table, coalesced, embed, embed_mean, embed_sum, row_gradients
from twotower.features.record import PADDING
from twotower.features.shared import SharedItems

ROWS, DIM = 9, 3
bags = arrays.arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, ROWS - 1))


def both(look_up: Callable[[Tensor], Tensor], rows: int = ROWS, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """The gradients of a table by one look-up, dense and sparse; their embeddings have to be the same."""
    tables = [Table(torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))] * 2
    tables[1] = Table(tables[0].detach().clone())
    found = []
    for table, sparse in zip(tables, (False, True), strict=True):
        with row_gradients([table] if sparse else []):
            embedded = look_up(table)
            slope = torch.randn(embedded.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            embedded.backward(slope)  # type: ignore[no-untyped-call]
        found.append(embedded)
    torch.testing.assert_close(found[0], found[1], rtol=1e-14, atol=1e-14)
    dense, sparse_gradient = (table.grad for table in tables)
    assert dense is not None
    assert sparse_gradient is not None
    assert not dense.is_sparse
    assert sparse_gradient.is_sparse
    gradient = coalesced(sparse_gradient)
    torch.testing.assert_close(gradient.to_dense(), dense, rtol=1e-13, atol=1e-13)
    return dense, gradient


@given(bags)
def test_rows_looked_up_have_the_dense_gradient_each_once(bag: np.ndarray) -> None:
    rows = torch.from_numpy(bag)
    for given_rows in (rows, rows[:, 0].long()):
        _, gradient = both(lambda table, given_rows=given_rows: embed(given_rows, table))  # type: ignore[misc]
        assert gradient.indices()[0].tolist() == sorted(set(given_rows.flatten().tolist()))


@pytest.mark.parametrize(("rows", "dim"), [(25, 4), (3_000, 8), (30_000, 3)])
@pytest.mark.parametrize("padding", [None, 1])
@pytest.mark.parametrize("shape", [(1_500,), (4_000,), (2_048, 20)])
def test_many_look_ups_have_the_gradient_of_pytorch_to_the_bit(
    rows: int, dim: int, padding: int | None, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(4)
    asked = (torch.rand(shape, generator=generator) ** 3 * rows).int()  # a few rows often, most rows never
    gradients: list[Tensor] = []
    for look_up in (embed, lambda asked, table, padding: F.embedding(asked, table, padding_idx=padding)):
        table = Table(torch.zeros(rows, dim))
        embedded = look_up(asked, table, padding)
        slopes = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(5))
        gradients += torch.autograd.grad(embedded, table, slopes)
    assert gradients[0].any()
    assert torch.equal(gradients[0], gradients[1])


def test_the_gradient_of_many_look_ups_can_be_differentiated() -> None:
    table, asked = Table(torch.ones(3, 2, dtype=torch.float64)), torch.arange(1_200) % 3
    (slope,) = torch.autograd.grad(embed(asked, table).square().sum(), table, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), table)
    assert torch.equal(curvature, torch.full((3, 2), 800.0, dtype=torch.float64))  # 400 look-ups, each 2 · 1


@given(bags)
def test_padding_has_no_gradient(bag: np.ndarray) -> None:
    rows = torch.from_numpy(bag)
    weights = torch.rand(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    looked_up: list[Callable[[Tensor], Tensor]] = [
        lambda table: embed(rows, table, padding=0),
        lambda table: embed_mean(rows, table, padding=0),
        lambda table: embed_sum(rows, table, weights, padding=0),
    ]
    for look_up in looked_up:
        _, gradient = both(look_up)
        assert gradient.indices()[0].tolist() == sorted(set(rows.flatten().tolist()) - {0})


@given(bags)
def test_weights_of_a_sum_have_the_dense_gradient(bag: np.ndarray) -> None:
    rows, slopes = torch.from_numpy(bag), []
    for sparse in (False, True):
        table = Table(torch.randn(ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        weights = torch.ones(rows.shape, dtype=torch.float64, requires_grad=True)
        with row_gradients([table] if sparse else []):
            embed_sum(rows, table, weights, padding=0).square().sum().backward()  # type: ignore[no-untyped-call]
        assert weights.grad is not None
        slopes.append(weights.grad)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-13, atol=1e-13)


def test_several_look_ups_in_one_table_add_up() -> None:
    rows = torch.tensor([[5, 2, 0], [2, 2, 7]])
    _, gradient = both(lambda table: embed(rows[:, 0], table) + embed_mean(rows, table, 0) + embed(rows[:, 2], table))
    assert gradient.indices()[0].tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_of_histories_have_the_dense_gradient(encoder: str) -> None:
    torch.manual_seed(0)
    module = ENCODERS[encoder](4, 5, 6).double()
    items = torch.tensor([[2, 3, 2, 1, 1], [4, 0, 4, 6, 8], [1, 1, 1, 1, 1]], dtype=torch.int32)
    window = Window(items, torch.randint(6, items.shape), items != PADDING)
    dense, gradient = both(lambda table: module(window, table), dim=4)
    assert not dense[[PADDING, 5, 7]].any()
    assert PADDING not in gradient.indices()


def test_a_gradient_is_as_before_after_the_block_even_when_something_fails() -> None:
    table = Table(torch.ones(3, 2))
    with pytest.raises(IndexError), row_gradients([table]):
        embed(torch.tensor([3]), table)
    embed(torch.tensor([1]), table).sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert not table.grad.is_sparse


def test_features_say_what_they_look_up() -> None:
    log = {"who": ["a", "a", "b"], "what": ["x", "y", "x"], "at": [1.0, 2.0, 3.0], "is": [["p"], [], ["p", "q"]]}
    columns = {name: pa.chunked_array([values]) for name, values in log.items()}
    items = Category("what", 4)
    history = History("what", by="who", time="at", length=7, dim=4, reach="around", shared=True)
    own = History("what", by="who", time="at", length=7, dim=4)
    text, labels, hashed, number = Text("what"), Categories("is", max_length=3), Hashed("who"), Normalized("at")
    history.share(SharedItems(items))
    for feature in (items, history, own, text, labels, hashed, number):
        feature.fit_columns(columns)
    found = [list(feature.look_ups) for feature in (items, history, own, text, labels, hashed, number)]
    tables = [items.table, items.table, own.table, text.table, labels.table, hashed.table]
    assert [[rows for _, rows in one] for one in found] == [[1], [14], [7], [64], [3], [1], []]
    assert all(one[0][0] is table for one, table in zip(found, tables, strict=False))
