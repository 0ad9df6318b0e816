"""`DataConfig`: the data of a config, and how to read it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from twotower.data import builtin
from twotower.data.dataset import Dataset
from twotower.data.given import given_parts
from twotower.data.log import Log, require_in_memory
from twotower.data.opening import stream_parquet
from twotower.data.simulation import simulated
from twotower.data.sources import Decimal
from twotower.data.stream import ParquetLog
from twotower.data.tables import from_tables
from twotower.errors import ConfigError

PATHS = ("interactions", "queries", "candidates", "test", "validation")
"""Keys of `[data]` that are paths."""


class SimulatedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the simulated data; see `twotower.data.simulated`."""

    queries: int = 943
    candidates: int = 1682
    interactions: int = 100_000
    seed: int = 0


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The data: a built-in data set by its `name`, or your own tables.

    Attributes:
        name: A built-in data set, or a name for your own.
        simulated: Sizes of the simulated data.
        interactions: Path of a Parquet, CSV or JSON Lines file, of a folder of them, or a pattern such as
            `events/*.parquet`; the same for the next two.
        queries: Table of the queries.
        candidates: Table of the candidates.
        query_id: Column of the query ids.
        candidate_id: Column of the candidate ids.
        time: Column of the times.
        weight: Column of the weights.
        chosen: Column that is false (or 0) for rows that were shown and not chosen; see `exposed_negatives` of the
            losses.
        request: Column of the request ids, with `chosen`: rows of one query and request were shown together.
        available_from: Column of the candidate table that says from when each can be chosen; empty: always.
        available_until: Column of the candidate table that says until when each can be chosen; empty: always.
        title: Column that displays a candidate; default: one whose name contains `title` or `name`.
        unknown_candidates: `refuse` or `drop` events whose candidate is not in the table.
        delimiter: Delimiter of CSV files; default: detected from each file's header.
        decimal: Decimal mark of CSV files: `.` or `,`.
        time_format: How times are written, in Python's strptime format, such as `%d.%m.%Y %H:%M`; default: ISO 8601,
            timestamps or numbers.
        stream: Leave the interactions on disk, in Parquet, and train on them piece by piece.
        test: A separate table of events to measure on; default: cut from the interactions.
        validation: A separate table of events for choosing the best epoch; default: cut from train.
    """

    name: str = "data"
    simulated: SimulatedConfig | None = None
    interactions: str | None = None
    queries: str | None = None
    candidates: str | None = None
    query_id: str | None = None
    candidate_id: str | None = None
    time: str | None = None
    weight: str | None = None
    chosen: str | None = None
    request: str | None = None
    available_from: str | None = None
    available_until: str | None = None
    title: str | None = None
    unknown_candidates: Literal["refuse", "drop"] = "refuse"
    delimiter: str | None = None
    decimal: Decimal = "."
    time_format: str | None = None
    stream: bool = False
    test: str | None = None
    validation: str | None = None

    @property
    def paths(self) -> dict[str, str]:
        """Paths of the tables, by key."""
        return {name: path for name in PATHS if (path := getattr(self, name)) is not None}

    @property
    def is_builtin(self) -> bool:
        """Whether it is a built-in data set."""
        return self.interactions is None

    def load(self) -> Dataset:
        """Reads and checks the interactions.

        Raises:
            ConfigError: Neither a built-in name nor tables with their id columns are given, or `stream` is set.
            DataError: The tables cannot be used.
            DataUnavailableError: The built-in data set cannot be obtained.
        """
        if self.stream:
            raise ConfigError("[data] stream = true; expected data that fits in memory here")
        self._check_given()
        if self.interactions is None:
            return self._load_builtin()
        if self.simulated is not None:
            raise ConfigError("[data] has interactions and [data.simulated]; expected one of them")
        return from_tables(self.interactions, **self._tables())

    def log(self) -> Log:
        """Reads and checks the interactions, or opens them if `stream` is set.

        Raises:
            ConfigError: As `load` and `open`.
            DataError: The tables cannot be used.
            DataUnavailableError: The built-in data set cannot be obtained.
        """
        return self.open() if self.stream else self.load()

    def given(self, train: Log) -> tuple[Log, dict[str, Dataset]]:
        """Train, and the parts given in separate tables, over the same queries.

        Raises:
            DataError: A table cannot be used.
        """
        named = {"test": self.test, "validation": self.validation}
        sources = {part: path for part, path in named.items() if path is not None}
        if isinstance(train, ParquetLog):
            read = {
                part: train.part(path, delimiter=self.delimiter, decimal=self.decimal) for part, path in sources.items()
            }
            return train, read
        own = self.queries is None
        train = require_in_memory(train, "a given part", "a log in memory or a ParquetLog")
        return given_parts(
            train,
            sources,
            own_queries=own,
            unknown_candidates=self.unknown_candidates,
            delimiter=self.delimiter,
            decimal=self.decimal,
            time_format=self.time_format,
        )

    def open(self) -> ParquetLog:
        """Opens and checks the streamed log.

        Raises:
            ConfigError: Its path or the name of an id column is missing.
            DataError: The tables cannot be used.
        """
        if self.interactions is None:
            raise ConfigError("[data] stream = true without interactions; expected the path of a log in Parquet")
        self._check_given()
        return stream_parquet(self.interactions, **self._tables())

    def _check_given(self) -> None:
        if self.validation is not None and self.test is None:
            raise ConfigError("[data] has validation without test; expected both, test alone, or neither")

    def _load_builtin(self) -> Dataset:
        default = DataConfig()
        names = [name for name in self.__struct_fields__ if name not in ("name", "simulated", "interactions")]
        if stray := [name for name in names if getattr(self, name) != getattr(default, name)]:
            raise ConfigError(f"[data] has {stray[0]} and no interactions; expected the path of your log")
        if self.simulated is not None:
            if self.name not in ("data", "simulated"):
                raise ConfigError(f'[data] name = "{self.name}" with [data.simulated]; expected name = "simulated"')
            return simulated(**msgspec.structs.asdict(self.simulated))
        if self.name == default.name:
            raise ConfigError(
                f"[data] names no data; expected interactions = PATH of your log, "
                f"or name = one of {', '.join(builtin.NAMES)}"
            )
        return builtin.load(self.name)

    def _tables(self) -> dict[str, Any]:
        """The arguments that `from_tables` and `stream_parquet` share."""
        if self.query_id is None or self.candidate_id is None:
            missing = "query_id" if self.query_id is None else "candidate_id"
            raise ConfigError(f"[data] has no {missing}; expected the name of that column of {self.interactions}")
        columns = ("query_id", "candidate_id", "time", "weight", "chosen", "request")
        written = ("delimiter", "decimal", "time_format")
        limits = ("available_from", "available_until")
        shared = (*columns, *limits, "queries", "candidates", "unknown_candidates", *written, "name")
        return {name: getattr(self, name) for name in shared}
