"""Where commands write: pretty output for people, one JSON value on standard output for machines."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console


def console_for(json: bool) -> Console:
    """Where people read: standard output, or standard error where standard output is for a machine."""
    return Console(stderr=json)


def write_json(value: object) -> None:
    """Writes one JSON value to standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")
