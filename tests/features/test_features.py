"""What every kind of feature has to do, and what each kind does with its column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from twotower.errors import ConfigError, DataError, NotFittedError
from twotower.features import (
    Bucketized,
    Categories,
    Category,
    Cyclic,
    Feature,
    Hashed,
    Normalized,
    Text,
    Vector,
    feature_from_settings,
)


class Hour(Feature):
    """A kind of one's own, as the documentation has it."""

    kind = "test-hour"

    def __init__(self, column: str, dim: int = 4) -> None:
        super().__init__()
        self.column, self.dim, self.width = column, dim, dim
        self.table = nn.Embedding(25, dim)

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        return torch.tensor([24 if second is None else second // 3600 % 24 for second in column.to_pylist()])

    def forward(self, encoded: Tensor) -> Tensor:
        embedded: Tensor = self.table(encoded)
        return embedded


NUMBERS = [3, 70_000, 3, None, 9_000, 42]
WORDS = ["Toy Story", "heat!", "Toy Soldiers", None, "", "Story of a toy"]
CASES: dict[str, tuple[Any, list[Any]]] = {
    "category": (lambda: Category("x", dim=3), ["a", "b", "a", None, "c", "a"]),
    "bucketized": (lambda: Bucketized("x", buckets=4, dim=3), NUMBERS),
    "normalized": (lambda: Normalized("x"), NUMBERS),
    "text": (lambda: Text("x", dim=3), WORDS),
    "categories": (lambda: Categories("x", dim=3), [["a", "b"], [], None, ["b"], ["c", "a"]]),
    "hashed": (lambda: Hashed("x", buckets=50, dim=3), ["a", "b", "a", None, "c", "a"]),
    "cyclic": (lambda: Cyclic("x", "week", harmonics=2), NUMBERS),
    "vector": (lambda: Vector("x", size=2, dim=3), [[1.0, 2.0], None, [0.5, -1.0]]),
    "trained vector": (lambda: Vector("x", size=2, trained=True), [[1.0, 2.0], None, [0.5, -1.0]]),
    "one's own": (lambda: Hour("x"), NUMBERS),
}


def column_of(values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Feature, list[Any]]:
    make, values = CASES[request.param]
    feature: Feature = make()
    feature.fit(column_of(values))
    return feature, values


def test_a_row_in_a_row_out_as_wide_as_said(case: tuple[Feature, list[Any]]) -> None:
    feature, values = case
    encoded = feature.encode(column_of(values))
    assert len(encoded) == len(values)
    assert feature(encoded).shape == (len(values), feature.width)


def test_missing_values_have_finite_embeddings(case: tuple[Feature, list[Any]]) -> None:
    feature, values = case
    nothing = pa.chunked_array([pa.array([None, None], pa.array(values).type)])
    assert feature(feature.encode(nothing)).isfinite().all()


def test_a_row_is_encoded_the_same_alone_as_in_company(case: tuple[Feature, list[Any]]) -> None:
    feature, values = case
    feature.eval()
    together = feature(feature.encode(column_of(values)))
    for row in range(len(values)):
        alone = feature(feature.encode(column_of(values).slice(row, 1)))
        assert torch.equal(alone[0], together[row])


def test_settings_state_and_weights_make_it_anew(case: tuple[Feature, list[Any]]) -> None:
    feature, values = case
    again = feature_from_settings(feature.settings())
    again.restore(feature.learned())
    again.load_state_dict(feature.state_dict())
    column = column_of(values)
    assert torch.equal(again.eval()(again.encode(column)), feature.eval()(feature.encode(column)))


def test_gradients_reach_its_parameters(case: tuple[Feature, list[Any]]) -> None:
    feature, values = case
    embedded = feature(feature.encode(column_of(values)))
    if list(feature.parameters()):
        embedded.sum().backward()
    assert all(parameter.grad is not None for parameter in feature.parameters())


@pytest.mark.parametrize("name", ["category", "bucketized", "normalized", "text", "categories"])
def test_it_cannot_be_used_before_it_has_learned(name: str) -> None:
    make, values = CASES[name]
    with pytest.raises(NotFittedError, match="call fit first"):
        make().encode(column_of(values))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "categry", "column": "x"},
            "kind 'categry' is unknown, did you mean 'category'. expected one of",
        ),
        ({"kind": "category"}, "missing a required argument: 'column'"),
        (
            {"kind": "category", "column": "x", "dims": 3},
            "unexpected keyword argument 'dims'",
        ),
        ({"kind": "category", "column": "x", "dim": "3"}, "Category: dim='3'; expected a whole number"),
        ({"kind": "category", "column": "x", "dim": 0}, "dim=0"),
        ({"kind": "category", "column": "x", "unknown_rate": 1.0}, "unknown_rate=1.0"),
        ({"kind": "bucketized", "column": "x", "buckets": 0}, "buckets=0"),
        ({"kind": "text", "column": "x", "max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        feature_from_settings(settings)


class TestCategory:
    def fitted(self, values: list[Any], **options: Any) -> Category:
        feature = Category("x", dim=2, **options)
        feature.fit(column_of(values))
        return feature

    @given(st.lists(st.sampled_from("abcde"), min_size=1), st.randoms())
    def test_the_order_of_rows_does_not_matter(self, values: list[str], random: Any) -> None:
        shuffled = list(values)
        random.shuffle(shuffled)
        assert self.fitted(values).learned().equals(self.fitted(shuffled).learned())

    def test_the_most_frequent_comes_first_and_equals_in_order(self) -> None:
        feature = self.fitted(["b", "c", "c", "a", None])
        assert feature.encode(column_of(["c", "a", "b", "z", None])).tolist() == [2, 3, 4, 0, 1]

    def test_ids_match_across_types_and_what_cannot_is_refused(self) -> None:
        feature = self.fitted([42, 7])
        assert feature.encode(column_of(["42", "9"])).tolist() == [3, 0]
        assert self.fitted(["42"]).encode(column_of([42])).tolist() == [2]
        with pytest.raises(DataError, match=r"'x', row 1: 'forty' is string; expected int64"):
            feature.encode(column_of(["42", "forty"]))

    def test_a_share_of_ids_is_unknown_in_training_and_none_in_evaluation(self) -> None:
        feature = self.fitted(["a"], unknown_rate=0.25)
        encoded = feature.encode(column_of(["a"] * 10_000))
        unknown = feature(encoded.new_zeros(1))[0]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            share = (feature.train()(encoded) == unknown).all(dim=1).float().mean().item()
        assert share == pytest.approx(0.25, abs=0.02)  # the deviation of the share is 0.004
        assert not (feature.eval()(encoded) == unknown).all(dim=1).any()


class TestBucketized:
    def test_buckets_are_of_equal_width_and_the_ends_are_open(self) -> None:
        feature = Bucketized("x", buckets=5, dim=2)
        feature.fit(column_of([0, 10]))
        values = [0, 1.99, 2, 9.99, 10, -50, 99, None]
        assert feature.encode(column_of(values)).tolist() == [1, 1, 2, 5, 5, 1, 5, 0]

    def test_a_constant_column_has_one_bucket(self) -> None:
        feature = Bucketized("x", buckets=5, dim=2)
        feature.fit(column_of([3, 3]))
        assert feature.encode(column_of([3, None])).tolist() == [1, 0]

    @pytest.mark.parametrize("kind", [Bucketized, Normalized])
    def test_what_is_no_finite_number_is_refused(self, kind: type[Bucketized | Normalized]) -> None:
        feature = kind("x")
        with pytest.raises(DataError, match=r"'x', row 1: inf; expected a finite number"):
            feature.fit(column_of([1.0, float("inf")]))
        with pytest.raises(DataError, match=r"'x', row 0: 'a' is string; expected a number"):
            feature.fit(column_of(["a"]))
        with pytest.raises(DataError, match="every value in train is missing"):
            feature.fit(pa.chunked_array([pa.array([None], pa.float64())]))


class TestNormalized:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50).filter(lambda found: np.std(found) > 1e-3))
    def test_train_has_mean_zero_and_deviation_one(self, values: list[float]) -> None:
        feature = Normalized("x")
        feature.fit(column_of(values))
        encoded = feature.encode(column_of(values)).double()
        assert encoded.mean().item() == pytest.approx(0, abs=1e-3)
        assert encoded.std(correction=0).item() == pytest.approx(1, abs=1e-3)

    def test_a_constant_column_gives_zeros_and_missing_is_trained(self) -> None:
        feature = Normalized("x")
        feature.fit(column_of([5, 5, 5]))
        assert feature(feature.encode(column_of([5]))).tolist() == [[0.0]]
        with torch.no_grad():
            feature.missing.fill_(7.0)
        assert feature(feature.encode(column_of([None, 5]))).tolist() == [[7.0], [0.0]]

    def test_times_are_seconds(self) -> None:
        stamps = pa.chunked_array([pa.array([0, 10], pa.timestamp("s"))])
        feature = Normalized("x")
        feature.fit(stamps)
        assert torch.equal(feature.encode(stamps), feature.encode(column_of([0, 10])))


class TestText:
    def fitted(self, texts: list[str | None], **options: Any) -> Text:
        feature = Text("x", dim=2, **options)
        feature.fit(column_of(texts))
        return feature

    def test_words_are_plain_and_case_does_not_matter(self) -> None:
        feature = self.fitted(["Wallace & Gromit: A Close Shave", "close"])
        rows = feature.encode(column_of(["CLOSE, shave!", "  close\tshave "]))
        assert rows[0].tolist() == rows[1].tolist()
        assert 1 not in rows

    def test_the_embedding_is_the_mean_of_its_words_without_padding(self) -> None:
        feature = self.fitted(["a b", "c"])
        table = feature.table
        assert table is not None
        both, one = feature(feature.encode(column_of(["a b", "c"])))
        torch.testing.assert_close(both, (table[2] + table[3]) / 2)
        torch.testing.assert_close(one, table[4])

    @given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
    def test_any_text_has_a_finite_embedding(self, texts: list[str]) -> None:
        feature = self.fitted(["some words to know"])
        assert feature(feature.encode(column_of(texts))).isfinite().all()

    def test_empty_missing_and_bare_punctuation_are_the_zero_vector(self) -> None:
        feature = self.fitted(["a b"])
        assert feature(feature.encode(column_of(["", None, " ?! "]))).tolist() == [[0, 0]] * 3

    def test_the_vocabulary_holds_the_most_frequent_words(self) -> None:
        feature = self.fitted(["a b c", "b c", "c"], max_tokens=2)
        assert feature.learned()["word"].to_pylist() == ["c", "b"]
        assert feature.encode(column_of(["a"])).tolist() == [[1]]

    def test_long_texts_are_cut(self) -> None:
        feature = self.fitted(["a b c d"], max_length=2)
        assert feature.encode(column_of(["a b c d", "d"])).shape == (2, 2)

    def test_numbers_are_refused(self) -> None:
        with pytest.raises(DataError, match="'x', row 0: 3 is int64; expected text"):
            Text("x").fit(column_of([3]))


class TestCategories:
    def test_the_embedding_is_the_mean_of_its_labels(self) -> None:
        feature = Categories("x", dim=2)
        feature.fit(column_of([["a", "b"], ["a"]]))
        table = feature.table
        assert table is not None
        both, none = feature(feature.encode(column_of([["b", "a"], []])))
        torch.testing.assert_close(both, (table[2] + table[3]) / 2)
        assert none.tolist() == [0.0, 0.0]

    def test_what_is_no_list_is_refused(self) -> None:
        with pytest.raises(DataError, match="'x', row 0: 'a' is string; expected a list of labels"):
            Categories("x").fit(column_of(["a"]))


class TestHashed:
    def test_a_value_has_its_row_on_every_machine_and_alone_or_in_company(self) -> None:
        feature = Hashed("x", buckets=1000)
        assert feature.encode(column_of(["phone", None])).tolist() == [176, 0]
        assert feature.encode(column_of(["42"])).tolist() == feature.encode(column_of([42])).tolist()


class TestCyclic:
    @pytest.mark.parametrize(("period", "seconds"), [("day", 86_400), ("week", 604_800)])
    def test_ends_meet_and_opposites_are_opposite(self, period: Any, seconds: int) -> None:
        feature = Cyclic("x", period, harmonics=1)
        start, middle, end = feature.encode(column_of([0, seconds // 2, seconds]))
        torch.testing.assert_close(start, end, atol=1e-6, rtol=0)
        torch.testing.assert_close(start, -middle, atol=1e-6, rtol=0)


class TestVector:
    def test_a_vector_is_passed_on_and_a_wrong_one_refused(self) -> None:
        feature = Vector("x", size=2)
        feature.fit(column_of([[1.0, 2.0]]))
        assert feature(feature.encode(column_of([[3, 4], None]))).tolist() == [[3.0, 4.0], [0.0, 0.0]]
        with pytest.raises(DataError, match="'x', row 1: a vector of 3 numbers; expected 2"):
            feature.fit(column_of([[1.0, 2.0], [1.0, 2.0, 3.0]]))
        with pytest.raises(DataError, match="'x', row 0: not finite"):
            feature.fit(column_of([[1.0, float("nan")]]))

    def test_a_trained_vector_starts_as_it_is_and_learns_where_training_saw_it(self) -> None:
        feature = Vector("x", size=2, trained=True)
        feature.fit(pa.chunked_array([[[3.0, 4.0], None, [0.0, 5.0], [3.0, 4.0]]]))
        assert feature.table is not None
        assert len(feature.table) == 3  # two distinct vectors, and the row of those that training did not see
        encoded = feature.encode(pa.chunked_array([[[3.0, 4.0], [1.0, 1.0], None]]))
        assert feature(encoded).tolist() == [[3.0, 4.0], [1.0, 1.0], [0.0, 0.0]]
        feature(encoded).sum().backward()
        assert feature.table.grad is not None
        assert sorted(feature.table.grad.sum(dim=1).tolist()) == [0.0, 0.0, 2.0]
        with torch.no_grad():
            feature.table.add_(1.0)
            feature.table[0] = 0.0
        again = Vector("x", size=2, trained=True)
        again.restore(feature.learned())
        again.load_state_dict(feature.state_dict())
        assert torch.equal(
            again.encode(pa.chunked_array([[[0.0, 5.0]]])), feature.encode(pa.chunked_array([[[0.0, 5.0]]]))
        )
        assert again(encoded).tolist() == [[4.0, 5.0], [1.0, 1.0], [0.0, 0.0]]


def test_numbers_beyond_training_count_as_the_nearest_end_of_its_range() -> None:
    feature = Normalized("at")
    feature.fit(pa.chunked_array([[100, 200, 300, 250]]))
    inside = feature.encode(pa.chunked_array([[100, 250, 300]]))
    assert inside.tolist() == pytest.approx([(x - 212.5) / np.std([100, 200, 300, 250]) for x in (100, 250, 300)])
    beyond = feature.encode(pa.chunked_array([[-(10**9), 250, 10**15]]))
    assert torch.equal(beyond, inside)
    restored = Normalized("at")
    restored.restore(feature.learned())
    assert torch.equal(restored.encode(pa.chunked_array([[-(10**9), 250, 10**15]])), inside)
    constant = Normalized("at")
    constant.fit(pa.chunked_array([[7, 7]]))
    assert constant.encode(pa.chunked_array([[7, 900]])).tolist() == [0.0, 0.0]


def test_numbers_held_as_text_are_refused_with_the_first_that_is_none() -> None:
    prices = pa.chunked_array([[*(f"{n}.50" for n in range(30)), "on request"]])
    with pytest.raises(DataError, match=r"column 'price', row 30: 30 of 31 values are numbers, but .*'on request'"):
        Normalized("price").fit(prices)
    with pytest.raises(DataError, match=r"column 'price', row 0: values such as '1,299.00' are text"):
        Normalized("price").fit(pa.chunked_array([["1,299.00", "9.50"]]))
