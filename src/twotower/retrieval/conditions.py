"""Conditions on candidates, written as text: `year >= 1990 and genres contains "Comedy"`.

`GRAMMAR` defines the syntax. A condition is parsed into a tree (`condition_tree.py`), which stores translate into Arrow
expressions, SQL and the like; nothing is ever run as code. As in SQL, a test of a missing value is neither true nor
false, and only true matches: `not year > 1990` does not match a candidate without a year. `contains` matches an equal
element of a list, or a substring of a text, ignoring case. Dates and times are compared with text such as "1994-06-30"
or "1994-06-30T12:00:00"; if a column has a time zone and the text has none, the text is in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken, v_args
from lark.exceptions import VisitError
from lark.visitors import Transformer_NonRecursive

from twotower.errors import ConfigError
from twotower.retrieval.condition_tree import (
    COMPARISONS,
    All,
    ArrowWords,
    Column,
    Contains,
    Either,
    Missing,
    Node,
    Not,
    among,
    compared,
)

GRAMMAR = r"""
?condition: conjunction (_OR conjunction)*
?conjunction: term (_AND term)*
?term: NEGATION+ atom -> negation
     | atom
?atom: "(" condition ")" | test
?test: COLUMN SIGN _value -> comparison
     | COLUMN [NOT] _IN "[" _value ("," _value)* "]" -> among
     | COLUMN [NOT] _CONTAINS _value -> contains
     | COLUMN _IS [NOT] _NULL -> missing
_value: NUMBER | TEXT | WORD

COLUMN: /[^\W\d]\w*|`[^`]+`/
WORD: COLUMN
NUMBER: /[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.])/i
TEXT: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s
SIGN: /[!<>=]=|[=<>]/
NEGATION.1: /not\b/i
NOT: /not\b/i
_IN: /in\b/i
_CONTAINS: /contains\b/i
_IS: /is\b/i
_NULL: /null\b/i
_AND: /and\b/i
_OR: /or\b/i
%ignore /\s+/
"""
"""Within quotes, a backslash escapes a quote or a backslash. The grammar accepts any word as a value; `_Column` checks
it."""

PARSER = Lark(GRAMMAR, parser="lalr", start="condition")

MAX_LENGTH = 10_000
"""Accept at most this many characters in a condition."""

MAX_DEPTH = 50
"""Accept at most this many nested brackets, and this many negations in a row."""

MAX_SHOWN = 40
"""Quote at most this many characters of an unexpected token in an error."""

ROW = " row"
"""Name of the temporary column of row numbers while a table is filtered."""

ORDERED = ("<", "<=", ">", ">=")

CANNOT_READ = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeError)


@dataclass(frozen=True)
class Condition:
    """A parsed condition on tables of one schema.

    Attributes:
        tree: The syntax tree; stores translate it into their own query language.
        schema: The schema of the tables.
    """

    tree: Node
    schema: pa.Schema

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Condition:
        """Parses a condition on tables of this schema.

        Raises:
            ConfigError: It cannot be parsed; the error says where, and what was expected there.

        Example:
            >>> films = pa.table({"title": ["Alien", "Heat"], "year": [1979, 1995]})
            >>> Condition.parse('year < 1990 and title contains "alien"', films.schema).rows(films).tolist()
            [0]
        """
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"the condition has {len(text)} characters; expected at most {MAX_LENGTH}")
        try:
            return cls(_Nodes(schema).transform(_parsed(text, schema)), schema)
        except VisitError as error:
            raise error.orig_exc from None

    def rows(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Rows of a table for which the condition is true, ascending.

        Raises:
            ConfigError: The table's values cannot be compared this way.
        """
        if table.num_rows == 0:
            return np.empty(0, dtype=np.int64)
        words = ArrowWords(self.schema)
        expression = words.expression(self.tree)
        for test in words.contained:
            table = table.append_column(test.name, test.of(table))
        table = table.append_column(ROW, pa.array(np.arange(table.num_rows)))
        try:
            rows: npt.NDArray[np.int64] = table.filter(expression)[ROW].to_numpy().copy()
        except CANNOT_READ as error:
            raise ConfigError(f"the condition cannot be used on this table: {error}") from error
        return rows


def matching_rows(table: pa.Table, text: str) -> npt.NDArray[np.int64]:
    """Rows of a table for which a condition is true, ascending, int64.

    Raises:
        ConfigError: The condition cannot be parsed.

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


def _parsed(text: str, schema: pa.Schema) -> Tree[Token]:
    """The parse tree of a condition; columns and tests are checked during parsing, so errors name the first mistake."""
    steps = PARSER.parse_interactive(text)
    column = last = None
    depth = negations = 0
    try:
        for last in steps.iter_parse():
            if last.type == "COLUMN":
                column = _Column(last, schema)
            elif column is not None:
                column.check(last)
            depth += (last.type == "LPAR") - (last.type == "RPAR")
            negations = negations + 1 if last.type == "NEGATION" else 0
            if max(depth, negations) > MAX_DEPTH:
                raise _mistake(last, f"at most {MAX_DEPTH} nested brackets and negations")
        tree: Tree[Token] = steps.feed_eof(last)
    except UnexpectedToken as error:
        token = error.token or Token("$END", "", len(text.rstrip()))
        raise _mistake(token, _expected(steps.accepts(), column, schema)) from None
    except UnexpectedCharacters as error:
        token = Token("", text[error.pos_in_stream :][:10], error.pos_in_stream)
        is_open = token[0] in "\"'`"
        raise _mistake(token, "a closing quote" if is_open else _expected(steps.accepts(), column, schema)) from None
    return tree


class _Column:
    """A column named in a condition, and the type of its values or its lists' elements."""

    def __init__(self, token: Token, schema: pa.Schema) -> None:
        self.token, self.name = token, token.strip("`")
        if (count := schema.names.count(self.name)) != 1:
            raise _mistake(token, "a column with a unique name" if count else _columns_of(schema))
        kind = schema.field(self.name).type
        self.has_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        values = kind.value_type if self.has_lists else kind
        self.kind = values.value_type if pa.types.is_dictionary(values) else values
        self.column = Column(self.name, self.kind, self.has_lists)

    def check(self, token: Token) -> None:
        """Refuses a test that its type does not support."""
        if self.has_lists and token.type in ("SIGN", "_IN"):
            raise _mistake(token, self.tests())
        if pa.types.is_boolean(self.kind) and token.type == "SIGN" and token in ORDERED:
            raise _mistake(token, "= or != after a boolean column")
        if token.type == "_CONTAINS" and not (self.has_lists or _is_text(self.kind)):
            raise _mistake(self.token, "a column of lists or text before contains")

    def tests(self) -> str:
        """The tests that may follow this column, for errors."""
        if self.has_lists:
            return "contains, or is null, after a column of lists"
        return f"{', '.join(COMPARISONS)}, in, contains or is after {self.token}"

    def values(self) -> str:
        """The values that this column can be compared with, for errors."""
        return f"{_described(self.kind)} for column {self.name}, which is {self.kind}"

    def value(self, token: Token) -> pa.Scalar:
        """The token as a value to compare this column with."""
        if (value := _value(token, self.kind)) is None:
            raise _mistake(token, self.values())
        return value


@v_args(inline=True)
class _Nodes(Transformer_NonRecursive[Token, Node]):
    """Builds the tree of a condition bottom-up, with one method per rule of the grammar."""

    def __init__(self, schema: pa.Schema) -> None:
        super().__init__()
        self.schema = schema

    def COLUMN(self, token: Token) -> _Column:  # noqa: N802 (the name of the terminal)
        return _Column(token, self.schema)

    def condition(self, *parts: Node) -> Node:
        return Either(parts)

    def conjunction(self, *parts: Node) -> Node:
        return All(parts)

    def negation(self, *parts: Any) -> Node:
        node: Node = parts[-1]
        return node if len(parts) % 2 else Not(node)

    def missing(self, column: _Column, negated: Token | None) -> Node:
        return _negated(Missing(column.column), negated)

    def comparison(self, column: _Column, sign: Token, value: Token) -> Node:
        return compared(column.column, "=" if sign == "==" else str(sign), column.value(value))

    def among(self, column: _Column, negated: Token | None, *values: Token) -> Node:
        return _negated(among(column.column, [column.value(value) for value in values]), negated)

    def contains(self, column: _Column, negated: Token | None, value: Token) -> Node:
        return _negated(Contains(column.column, column.value(value)), negated)


def _negated(node: Node, negated: Token | None) -> Node:
    return Not(node) if negated else node


def _mistake(token: Token, expected: str) -> ConfigError:
    found = repr(str(token[:MAX_SHOWN]) + "…" * (len(token) > MAX_SHOWN)) if token else "the end"
    return ConfigError(f"condition, character {(token.start_pos or 0) + 1}: found {found}; expected {expected}")


def _expected(accepted: set[str], column: _Column | None, schema: pa.Schema) -> str:
    """What the grammar accepts next, worded for an error."""
    if column is None or "COLUMN" in accepted:
        return _columns_of(schema)
    words = {
        "WORD": column.values(),
        "SIGN": column.tests(),
        "_CONTAINS": "in or contains",
        "_NULL": "null",
        "LSQB": "[",
        "RSQB": "a comma or ]",
        "RPAR": "and, or, or a closing bracket",
    }
    return next((said for terminal, said in words.items() if terminal in accepted), "and, or, or the end")


def _columns_of(schema: pa.Schema) -> str:
    return f"a column: {', '.join(schema.names)}"


def _value(token: Token, kind: pa.DataType) -> pa.Scalar | None:
    """A token as a value of the column's type, or of one comparable with it; None if it is of another kind."""
    try:
        if pa.types.is_boolean(kind):
            return pa.scalar(token.lower() == "true") if token.lower() in ("true", "false") else None
        if token.type == "TEXT":
            text = re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
            return (
                _moment(text, kind) if pa.types.is_temporal(kind) else pa.scalar(text, kind) if _is_text(kind) else None
            )
        if token.type == "NUMBER" and _is_number(kind):
            return _number(str(token), kind)
    except (*CANNOT_READ, ValueError):
        return None
    return None


def _moment(text: str, kind: pa.DataType) -> pa.Scalar:
    """A date or time; if the column has a time zone and the text has none, the text is in UTC."""
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
            return pa.scalar(float(text))  # too large for the type; `compared` handles it
    value = float(text)
    narrow = pa.types.is_float32(kind) and abs(value) <= float(np.finfo(np.float32).max)
    return pa.scalar(value, kind if narrow else pa.float64())  # a float32 column stored 1.1 as float32


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
