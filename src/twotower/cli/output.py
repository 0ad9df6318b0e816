"""Output of commands: formatted text for people, one JSON value on standard output for machines."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console

from twotower.errors import DataWarning
from twotower.ranks import Ranks, joined, launched


def console_for(json: bool) -> Console:
    """The console for people: standard output, or standard error if JSON goes to standard output."""
    return Console(stderr=json)


def write_json(value: object) -> None:
    """Writes one JSON value to standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")


def show_log() -> None:
    """Shows the library's log on standard error, such as which tables several ranks have sharded."""
    log, shown = logging.getLogger("twotower"), logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(shown)
    log.setLevel(logging.INFO)


@contextmanager
def launched_together() -> Iterator[Ranks]:
    """Joins the ranks that `torchrun` started. Only the first rank shows warnings about the data."""
    with launched() as ranks, joined(ranks), warnings.catch_warnings():
        if not ranks.is_first:
            warnings.simplefilter("ignore", DataWarning)
        yield ranks
