"""Data sets: reading them, checking them, splitting them, and the simulated one."""

from twotower.data.dataset import Dataset, from_tables
from twotower.data.seen import Seen
from twotower.data.splits import (
    LastOut,
    RandomSplit,
    Split,
    TimeSplit,
    parse_rule,
    split_by_time,
    split_last_out,
    split_random,
)

__all__ = [
    "Dataset",
    "LastOut",
    "RandomSplit",
    "Seen",
    "Split",
    "TimeSplit",
    "from_tables",
    "parse_rule",
    "split_by_time",
    "split_last_out",
    "split_random",
]
