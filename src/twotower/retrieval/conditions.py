r"""Conditions on candidates, as people write them: `year >= 1990 and genres contains "Comedy"`.

    condition   = conjunction { "or" conjunction }
    conjunction = term { "and" term }
    term        = "not" term | "(" condition ")" | test
    test        = column ("=" | "!=" | "<" | "<=" | ">" | ">=") value
                | column ["not"] "in" "[" value { "," value } "]"
                | column ["not"] "contains" value
                | column "is" ["not"] "null"
    column      = a name of letters, digits and _, or any name between backticks
    value       = a number, true, false, or text between quotes, double or single; a \ stands before a quote or \ in it

They are parsed into an Arrow expression; nothing is ever run as code. As in SQL, a test of a missing value is neither
true nor false, and only what is true is found: `not year > 1990` does not find a candidate without a year.
`contains` finds an equal element of a list, or a part of a text, of the latter in upper or lower case. Dates and
times are compared with text such as "1994-06-30" or "1994-06-30T12:00:00"; where a column has a time zone and the text
names none, that is UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import ConfigError

LONGEST = 10_000
"""Characters in a condition, at most."""

DEEPEST = 50
"""Brackets and negations within one another, at most."""

SHOWN = 40
"""Characters of what was found that an error shows, at most."""

ROW = " row"
"""The column of row numbers while a table is filtered."""

TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<quoted>`[^`]+`)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>!=|<=|>=|==|[=<>()\[\],])
    )""",
    re.VERBOSE | re.DOTALL,
)

COMPARISONS: dict[str, Callable[[pc.Expression, pa.Scalar], pc.Expression]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}
ORDERED = ("<", "<=", ">", ">=")

CANNOT_READ = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeError)


@dataclass(frozen=True)
class Contained:
    """A test whether a list has an element; its result becomes a column of its own, `name`."""

    name: str
    column: str
    value: pa.Scalar

    def of(self, table: pa.Table) -> pa.Array:
        """For each row whether its list has the element; null where there is no list."""
        lists = table[self.column].combine_chunks()
        hit = pc.equal(lists.flatten(), self.value).fill_null(False).to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()  # of a null list, `flatten` skips the values
        parents = np.repeat(np.arange(len(lists)), lengths)
        found = np.zeros(len(lists), dtype=bool)
        found[parents[hit]] = True
        return pa.array(found, mask=lists.is_null().to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Attributes:
        expression: What has to be true, over the table's columns and those of `contained`.
        contained: Tests of lists, for which Arrow has no expression.
    """

    expression: pc.Expression
    contained: tuple[Contained, ...]

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Condition:
        """Reads a condition on tables of this schema.

        Raises:
            ConfigError: It cannot be read, with the place and what was expected there.

        Example:
            >>> films = pa.table({"title": ["Alien", "Heat"], "year": [1979, 1995]})
            >>> Condition.parse('year < 1990 and title contains "alien"', films.schema).rows(films).tolist()
            [0]
        """
        return _Parser(text, schema).parsed()

    def rows(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Rows of a table for which it is true, ascending.

        Raises:
            ConfigError: The table's values cannot be compared so.
        """
        if table.num_rows == 0:
            return np.empty(0, dtype=np.int64)
        for test in self.contained:
            table = table.append_column(test.name, test.of(table))
        table = table.append_column(ROW, pa.array(np.arange(table.num_rows)))
        try:
            rows: npt.NDArray[np.int64] = table.filter(self.expression)[ROW].to_numpy().copy()
        except CANNOT_READ as error:
            raise ConfigError(f"the condition cannot be used on this table: {error}") from error
        return rows


def matching_rows(table: pa.Table, text: str) -> npt.NDArray[np.int64]:
    """Rows of a table for which a condition is true, ascending, int64.

    Raises:
        ConfigError: The condition cannot be read.

    Example:
        >>> films = pa.table({"title": ["Alien", "Heat", "Alien"], "genres": [["Horror"], ["Crime", "Drama"], None]})
        >>> matching_rows(films, 'genres contains "Drama" or genres is null').tolist()
        [1, 2]
        >>> matching_rows(films, "yeer > 1990")
        Traceback (most recent call last):
        ...
        twotower.errors.ConfigError: condition, character 1: found 'yeer'; expected a column: title, genres
    """
    return Condition.parse(text, table.schema).rows(table)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def word(self) -> str:
        """The keyword that it may be."""
        return self.text.lower() if self.kind == "word" else self.text if self.kind == "sign" else ""


class _Parser:
    def __init__(self, text: str, schema: pa.Schema) -> None:
        if len(text) > LONGEST:
            raise ConfigError(f"the condition has {len(text)} characters; expected at most {LONGEST}")
        self.schema, self.tokens, self.next = schema, _tokens(text), 0
        self.contained: list[Contained] = []

    def parsed(self) -> Condition:
        expression = self.condition(0)
        if self.token.kind != "end":
            self.fail("and, or, or the end")
        return Condition(expression, tuple(self.contained))

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def fail(self, expected: str, token: _Token | None = None) -> NoReturn:
        token = token or self.token
        text = token.text if len(token.text) <= SHOWN else f"{token.text[:SHOWN]}…"
        found = "the end" if token.kind == "end" else repr(text)
        raise ConfigError(f"condition, character {token.place + 1}: found {found}; expected {expected}")

    def take(self, *words: str) -> str | None:
        """Steps over one of these words or signs, if it is next."""
        if (word := self.token.word) in words:
            self.next += 1
            return word
        return None

    def condition(self, depth: int) -> pc.Expression:
        found = self.conjunction(depth)
        while self.take("or"):
            found = found | self.conjunction(depth)
        return found

    def conjunction(self, depth: int) -> pc.Expression:
        found = self.term(depth)
        while self.take("and"):
            found = found & self.term(depth)
        return found

    def term(self, depth: int) -> pc.Expression:
        if depth > DEEPEST:
            self.fail(f"at most {DEEPEST} brackets and negations within one another")
        if self.take("not"):
            return ~self.term(depth + 1)
        if self.take("("):
            found = self.condition(depth + 1)
            if not self.take(")"):
                self.fail("and, or, or a closing bracket")
            return found
        return self.test()

    def test(self) -> pc.Expression:
        token = self.token
        name = token.text[1:-1] if token.kind == "quoted" else token.text
        if token.kind not in ("word", "quoted") or name not in self.schema.names:
            self.fail(f"a column: {', '.join(self.schema.names)}")
        if self.schema.names.count(name) > 1:
            self.fail("a column whose name is there once")
        self.next += 1
        kind = self.schema.field(name).type
        if self.take("is"):
            wanted = not self.take("not")
            if not self.take("null"):
                self.fail("null")
            return pc.field(name).is_null() if wanted else pc.field(name).is_valid()
        negated = bool(self.take("not"))
        if self.take("contains"):
            return self.negated(negated, self.contains(name, kind, token))
        if self.take("in"):
            return self.negated(negated, self.among(name, kind, token))
        if negated:
            self.fail("in or contains")
        return self.comparison(name, kind, token)

    def comparison(self, name: str, kind: pa.DataType, column: _Token) -> pc.Expression:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self.fail("contains, or is null, after a column of lists")
        sign = self.take("==", *COMPARISONS)
        if sign is None:
            self.fail(f"{', '.join(COMPARISONS)}, in, contains or is after {column.text}")
        sign = "=" if sign == "==" else sign
        if sign in ORDERED and pa.types.is_boolean(kind):
            self.fail("= or != after a column that is true or false", self.tokens[self.next - 1])
        return COMPARISONS[sign](self.column(name, kind), self.value(name, kind))

    def among(self, name: str, kind: pa.DataType, column: _Token) -> pc.Expression:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self.fail("contains, or is null, for a column of lists", column)
        if not self.take("["):
            self.fail("[")
        field = self.column(name, kind)
        found = field == self.value(name, kind)
        values = [found]
        while self.take(","):
            values.append(field == self.value(name, kind))
        if not self.take("]"):
            self.fail("a comma or ]")
        while len(values) > 1:  # by halves, so that a long list makes no deep expression
            values = [left | right for left, right in zip(values[::2], values[1::2], strict=False)] + (
                values[-1:] if len(values) % 2 else []
            )
        return values[0]

    def contains(self, name: str, kind: pa.DataType, column: _Token) -> pc.Expression:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            test = Contained(f" list {len(self.contained)}", name, self.value(name, kind.value_type))
            self.contained.append(test)
            return pc.field(test.name)
        plain = _plain(kind)
        if not _is_text(plain):
            self.fail("a column of lists or text before contains", column)
        return pc.match_substring(self.column(name, kind), self.value(name, plain).as_py(), ignore_case=True)

    def column(self, name: str, kind: pa.DataType) -> pc.Expression:
        plain = _plain(kind)
        return pc.field(name) if plain == kind else pc.field(name).cast(plain)

    def value(self, name: str, kind: pa.DataType) -> pa.Scalar:
        """The next token as a value to compare this column with."""
        token, kind = self.token, _plain(kind)
        read = _value(token, kind)
        if read is None:
            self.fail(f"{_described(kind)} for column {name}, which is {kind}")
        self.next += 1
        return read

    @staticmethod
    def negated(negated: bool, expression: pc.Expression) -> pc.Expression:
        return ~expression if negated else expression


def _tokens(text: str) -> list[_Token]:
    tokens, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            what = "a closing quote" if text[start] in "\"'`" else "a column, a value or a sign"
            raise ConfigError(f"condition, character {start + 1}: found {text[start : start + 10]!r}; expected {what}")
        kind = match.lastgroup
        assert kind is not None
        tokens.append(_Token(kind, match.group(kind), match.start(kind)))
        place = match.end()
    return [*tokens, _Token("end", "", end)]


def _value(token: _Token, kind: pa.DataType) -> pa.Scalar | None:
    """A token in the type of a column, or in one that compares with it; None where it is of another kind."""
    try:
        if pa.types.is_boolean(kind):
            return pa.scalar(token.word == "true") if token.word in ("true", "false") else None
        if token.kind == "text":
            text = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
            return (
                _moment(text, kind) if pa.types.is_temporal(kind) else pa.scalar(text, kind) if _is_text(kind) else None
            )
        if token.kind == "number" and _is_number(kind):
            return _number(token.text, kind)
    except (*CANNOT_READ, ValueError):
        return None
    return None


def _moment(text: str, kind: pa.DataType) -> pa.Scalar:
    """A date or time; one that names no zone is in UTC where the column has a zone."""
    try:
        return pa.scalar(text).cast(kind)
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise
        return pa.scalar(text).cast(pa.timestamp(kind.unit)).cast(kind)


def _number(text: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_integer(kind) and re.fullmatch(r"[-+]?\d+", text):
        try:
            return pa.scalar(int(text), kind)
        except CANNOT_READ:
            return pa.scalar(float(text))  # larger than the type holds: compared as such
    value = float(text)
    narrow = pa.types.is_float32(kind) and abs(value) <= float(np.finfo(np.float32).max)
    return pa.scalar(value, kind if narrow else pa.float64())  # 1.1 in float32 is what 1.1 was stored as


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, in which they are compared."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _described(kind: pa.DataType) -> str:
    words: list[tuple[Callable[[Any], bool], str]] = [
        (pa.types.is_boolean, "true or false"),
        (_is_text, "text between quotes"),
        (_is_number, "a number"),
        (pa.types.is_temporal, 'a date or time between quotes, such as "1994-06-30"'),
    ]
    return next((said for fits, said in words if fits(kind)), "only is null")
