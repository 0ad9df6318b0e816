"""Data sets: reading, checking, splitting and simulating them."""

from twotower.data.dataset import Dataset, Oracle
from twotower.data.describe import Description, describe
from twotower.data.log import Log
from twotower.data.lookalike import Lookalike, lookalike
from twotower.data.movielens import movielens
from twotower.data.opening import stream_parquet
from twotower.data.seen import Seen
from twotower.data.simulation import simulated
from twotower.data.sources import read_table
from twotower.data.splits import (
    LastOut,
    RandomSplit,
    Split,
    TimeSplit,
    choose_rule,
    parse_rule,
    split_by_time,
    split_last_out,
    split_random,
)
from twotower.data.stream import ParquetLog
from twotower.data.streamed_splits import LogSplit, split_log
from twotower.data.tables import from_tables

__all__ = [
    "Dataset",
    "Description",
    "LastOut",
    "Log",
    "LogSplit",
    "Lookalike",
    "Oracle",
    "ParquetLog",
    "RandomSplit",
    "Seen",
    "Split",
    "TimeSplit",
    "choose_rule",
    "describe",
    "from_tables",
    "lookalike",
    "movielens",
    "parse_rule",
    "read_table",
    "simulated",
    "split_by_time",
    "split_last_out",
    "split_log",
    "split_random",
    "stream_parquet",
]
