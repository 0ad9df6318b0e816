"""Conditions against the plain meaning of what they say."""

from __future__ import annotations

import datetime as dt
import operator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError
from twotower.retrieval.conditions import MAX_DEPTH, MAX_LENGTH, matching_rows

KINDS: dict[str, pa.DataType] = {
    "year": pa.int64(),
    "price": pa.float64(),
    "title": pa.string(),
    "label": pa.dictionary(pa.int32(), pa.string()),
    "new": pa.bool_(),
    "day": pa.date32(),
    "tags": pa.list_(pa.string()),
    "sizes": pa.list_(pa.int64()),
}
NUMBERS, WORDS = (0, 1, 2, -3), ("red", "Red", "o'hare", 'say "so"', "")
DAYS = (dt.date(1994, 6, 30), dt.date(1995, 1, 1))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "year": st.sampled_from(NUMBERS),
    "price": st.sampled_from((0.0, 1.5, -3.0)),
    "title": st.sampled_from(WORDS),
    "label": st.sampled_from(WORDS),
    "new": st.booleans(),
    "day": st.sampled_from(DAYS),
    "tags": st.lists(st.sampled_from(WORDS) | st.none(), max_size=3),
    "sizes": st.lists(st.sampled_from(NUMBERS), max_size=3),
}
ROWS = st.fixed_dictionaries({name: values | st.none() for name, values in VALUES.items()})
OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

Meaning = Any
"""A function of a row: True, False, or None where a value is missing."""


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    text = value.isoformat() if isinstance(value, dt.date) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def known(name: str, test: Meaning) -> Meaning:
    return lambda row: None if row[name] is None else test(row[name])


@st.composite
def one_test(draw: st.DrawFn) -> tuple[str, Meaning]:
    name = draw(st.sampled_from(list(KINDS)))
    if draw(st.integers(0, 5)) == 0:
        if draw(st.booleans()):
            return f"{name} is null", lambda row: row[name] is None
        return f"`{name}` IS NOT NULL", lambda row: row[name] is not None
    if name in ("tags", "sizes"):
        value = draw(st.sampled_from(WORDS if name == "tags" else NUMBERS))
        return f"{name} contains {written(value)}", known(name, lambda own: value in own)
    if name in ("title", "label") and draw(st.booleans()):
        value = draw(st.sampled_from(WORDS))
        return f"{name} contains {written(value)}", known(name, lambda own: value.lower() in own.lower())
    if draw(st.integers(0, 3)) == 0:
        several = draw(st.lists(VALUES[name], min_size=1, max_size=4))
        return f"{name} in [{', '.join(map(written, several))}]", known(name, lambda own: own in several)
    sign = draw(st.sampled_from(("=", "!=") if name == "new" else tuple(OPERATORS)))
    value = draw(VALUES[name])
    return f"{name} {sign} {written(value)}", known(name, lambda own: OPERATORS[sign](own, value))


def opposite(inner: Meaning) -> Meaning:
    return lambda row: None if (found := inner(row)) is None else not found


def both(left: Meaning, right: Meaning) -> Meaning:
    def meaning(row: Any) -> bool | None:
        found = left(row), right(row)
        return False if False in found else None if None in found else True

    return meaning


def either(left: Meaning, right: Meaning) -> Meaning:
    return opposite(both(opposite(left), opposite(right)))


def larger(inner: st.SearchStrategy[tuple[str, Meaning]]) -> st.SearchStrategy[tuple[str, Meaning]]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) and ({two[1][0]})", both(two[0][1], two[1][1]))),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) OR ({two[1][0]})", either(two[0][1], two[1][1]))),
        inner.map(lambda one: (f"not ({one[0]})", opposite(one[1]))),
    )


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(ROWS, max_size=8), condition=st.recursive(one_test(), larger, max_leaves=6))
def test_a_condition_finds_what_it_says(rows: list[dict[str, Any]], condition: tuple[str, Meaning]) -> None:
    text, meaning = condition
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in KINDS.items()})
    assert matching_rows(table, text).tolist() == [place for place, row in enumerate(rows) if meaning(row) is True]


def test_values_are_compared_as_the_column_holds_them() -> None:
    moments = pa.array([dt.datetime(1994, 6, 30, 1), dt.datetime(1994, 6, 29, 23)], pa.timestamp("us", "UTC"))
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 2, 3], pa.int32()), pa.array(["red", "blue", "red"]), mask=pa.array([True, False])
    )
    table = pa.table({"at": moments, "share": pa.array([1.1, 2.0], pa.float32()), "tags": hidden})
    assert matching_rows(table, 'at >= "1994-06-30"').tolist() == [0]
    assert matching_rows(table, 'at >= "1994-06-30T01:00:00+02:00"').tolist() == [0, 1]
    assert matching_rows(table, "share = 1.1").tolist() == [0]
    assert matching_rows(table, "share <= 1.1").tolist() == [0]
    assert matching_rows(table, "share < 1e300").tolist() == [0, 1]
    assert matching_rows(table, 'tags contains "red"').tolist() == [1]  # a null list over values has none
    assert matching_rows(table, 'not tags contains "green"').tolist() == [1]


def test_a_name_that_is_there_twice_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["year", "year"])
    with pytest.raises(ConfigError, match="character 1: found 'year'; expected a column with a unique name"):
        matching_rows(table, "year > 1")


FILMS = pa.table(
    {
        "title": ["Alien", "Heat", "Toy Story"],
        "year": [1979, 1995, None],
        "genres": [["Horror", "Sci-Fi"], ["Crime"], ["Comedy"]],
        "the rating": [8.5, 8.3, 8.3],
        "seen": [True, False, None],
        "at": pa.array([dt.datetime(1979, 5, 25, 12), dt.datetime(1995, 12, 15), None], pa.timestamp("s")),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("year < 1990 or year > 1990 and year > 1994", [0, 1]),  # and binds closer than or
        ("not year > 1990 and seen = true", [0]),  # not binds closest
        ("not year > 1990", [0]),  # a missing year is neither
        ("`the rating` >= 8.4", [0]),
        ("title not contains 'a'", [2]),
        ("year not in [1979, 1980]", [1]),
        ('at < "1980-01-01"', [0]),
        ('at >= "1979-05-25T12:00:00"', [0, 1]),
        ("year < 99999999999999999999", [0, 1]),
        ("year = 1979.0", [0]),
        ("year == 1979", [0]),
        ("year IN[1979]Or(title='Heat')", [0, 1]),
        ("not not year = 1979", [0]),
        ("not not not year = 1979", [1]),
        (f"year in [{', '.join(['1'] * 1500)}, 1995]", [1]),
        (" or ".join(["year=0"] * 900) + " or year = 1995", [1]),
    ],
)
def test_the_grammar_by_examples(text: str, rows: list[int]) -> None:
    assert matching_rows(FILMS, text).tolist() == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "character 1: found the end; expected a column: title, year, genres"),
        ("yeer > 3", "character 1: found 'yeer'; expected a column: title, year"),
        ("year > 1990 and", "character 16: found the end; expected a column"),
        ("year > 'x'", "character 8: found \"'x'\"; expected a number for column year, which is int64"),
        ("title = 3", "character 9: found '3'; expected text between quotes for column title"),
        ("title = Alien", "character 9: found 'Alien'; expected text between quotes"),
        ("seen > true", "character 6: found '>'; expected = or !="),
        ("seen = 1", "expected true or false"),
        ("at > 3", "expected a date or time between quotes"),
        ('at > "yesterday"', "expected a date or time between quotes"),
        ('genres = "Crime"', "character 8: found '='; expected contains, or is null"),
        ("year contains 3", "character 1: found 'year'; expected a column of lists or text before contains"),
        ('title = "Alien', "character 9: found '\"Alien'; expected a closing quote"),
        ("(year > 1990", "character 13: found the end; expected and, or, or a closing bracket"),
        ("year > 1990)", "character 12: found ')'; expected and, or, or the end"),
        ("year in 1990", "character 9: found '1990'; expected ["),
        ("year in []", "expected a number"),
        ("year is nothing", "character 9: found 'nothing'; expected null"),
        ("year not 3", "expected in or contains"),
        ("year", "expected =, !=, <, <=, >, >=, in, contains or is after year"),
        ("__import__('os')", "expected a column"),
        ("year > 19x", "character 8: found '19x'; expected a number for column year, which is int64"),
        ("year = 1 andyear = 2", "character 10: found 'andyear'; expected and, or, or the end"),
        ("year isnull", "character 6: found 'isnull'; expected =, !="),
        ("year ; 3", "character 6: found '; 3'"),
        ("(" * 5000, f"at most {MAX_DEPTH} nested brackets and negations"),
        ("not " * 1000 + "year > 3", f"at most {MAX_DEPTH} nested brackets and negations"),
        ("x" * (MAX_LENGTH + 1), f"expected at most {MAX_LENGTH}"),
        ("year < " + "9" * 5000, f"found '{'9' * 40}…'; expected a number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        matching_rows(FILMS, text)
    assert said in str(refused.value)


@given(st.text(max_size=60) | st.from_regex(r"(year|title|genres|[<>=()\[\]\"' ]|and|or|not|in|[0-9]){1,15}"))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        rows = matching_rows(FILMS, text)
    except ConfigError:
        return
    assert set(rows) <= {0, 1, 2}


def test_a_column_is_found_by_a_word_of_the_grammar() -> None:
    table = pa.table({"in": [1, 2], "is": ["true", "null"], "not": [3, 4]})
    assert matching_rows(table, "in in [2] or is = 'true'").tolist() == [0, 1]
    assert matching_rows(table, "not `not` = 3 and is is not null").tolist() == [1]


def test_the_deepest_condition_is_read() -> None:
    text = "not (" * MAX_DEPTH + "year = 1979" + ")" * MAX_DEPTH
    assert matching_rows(FILMS, text).tolist() == [0]
    assert matching_rows(FILMS, "(seen = true or " * MAX_DEPTH + "year = 1979" + ")" * MAX_DEPTH).tolist() == [0]
