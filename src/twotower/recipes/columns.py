"""Which columns each tower reads, and why the others are left out, as text and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from twotower.data.log import Log
from twotower.errors import ConfigError, unknown_among
from twotower.features import Category, Feature
from twotower.recipes.inputs import ColumnUse


class ColumnRead(msgspec.Struct, frozen=True):
    """How a column is used.

    Attributes:
        column: Its name.
        read_as: How its features read it, as shown to users; empty if it is left out.
        why_not: Why it is left out; empty if it is read.
        hint: A hint for the user.
    """

    column: str
    read_as: str = ""
    why_not: str = ""
    hint: str = ""

    @classmethod
    def of(cls, use: ColumnUse, own_id: str) -> ColumnRead:
        """Describes how a column of the tower with this id column is used."""
        words = dict.fromkeys(feature.read_as for feature in use.features)
        if use.column == own_id:
            words = dict.fromkeys("id" if word == Category.read_as else word for word in words)
        return cls(use.column, ", ".join(words), use.why_not, use.hint)


class TowerColumns(msgspec.Struct, frozen=True):
    """The columns of both towers.

    Attributes:
        query: Columns of the query table and the interactions.
        candidate: Columns of the candidate table.
    """

    query: list[ColumnRead]
    candidate: list[ColumnRead]

    def lines(self) -> list[str]:
        """One line per tower for the columns it reads, and one for each column left out."""
        towers = {"query": self.query, "candidate": self.candidate}
        return [
            f"{tower} tower reads: {', '.join(_shown(use) for use in uses if use.read_as)}"
            for tower, uses in towers.items()
        ] + [
            f"{tower} tower leaves out {use.column}: {use.why_not}"
            for tower, uses in towers.items()
            for use in uses
            if not use.read_as
        ]


def given_columns(features: Sequence[Feature], names: Iterable[str], tower: str) -> list[ColumnUse]:
    """How columns are used when a config names the features.

    Args:
        features: The features.
        names: All columns that they could read.
        tower: `query` or `candidate`.
    """
    uses = [ColumnUse(column, tuple(f for f in features if f.column == column)) for column in _columns(features)]
    read = {column for feature in features for column in (*feature.reads, *feature.learns_from, *feature.may_read)}
    left_out = (name for name in dict.fromkeys(names) if name not in read)
    return uses + [ColumnUse(name, why_not=f"no [[model.{tower}]] names it") for name in left_out]


def check_columns(features: Sequence[Feature], known: Iterable[str], tower: str) -> None:
    """Refuses features of a config that read a column which the data lacks.

    Args:
        features: The features.
        known: All columns of the data that the tower may read.
        tower: `query` or `candidate`.

    Raises:
        ConfigError: A feature reads another column; the message names it and the known ones.

    Example:
        >>> check_columns([Category("usr")], ["user", "age"], "query")
        Traceback (most recent call last):
        twotower.errors.ConfigError: [[model.query]] column = 'usr' is not in the data, did you mean 'user'? \
expected one of user, age
    """
    known = list(dict.fromkeys(known))
    for feature in features:
        for column in feature.reads:
            if column not in known:
                raise ConfigError(
                    f"[[model.{tower}]] column = {column!r} is not in the data{unknown_among(column, known)}",
                    field=f"model.{tower}.column",
                    column=column,
                )


def event_columns(data: Log) -> list[ColumnUse]:
    """The columns of the interactions that no default feature reads."""
    known = {data.query_id, data.candidate_id, data.time, *data.queries.column_names}
    return [
        ColumnUse(name, why_not="it is the weight of the events")
        if name == data.weight
        else ColumnUse(name, why_not="columns of the interactions are read only if [[model.query]] names them")
        for name in data.columns
        if name not in known
    ]


def _columns(features: Sequence[Feature]) -> list[str]:
    return list(dict.fromkeys(feature.column for feature in features))


def _shown(use: ColumnRead) -> str:
    return f"{use.column} ({use.read_as}{'; ' if use.hint else ''}{use.hint})"
