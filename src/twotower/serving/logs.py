"""The log: one JSON object per line, on standard error."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

log = logging.getLogger("twotower.serving")


def fields(**values: object) -> dict[str, Any]:
    """Further fields of a log line, to pass as `extra`."""
    return {"fields": values}


class JsonLines(logging.Formatter):
    """A record as one JSON object.

    Example:
        >>> record = logging.LogRecord("twotower.serving", logging.INFO, "", 0, "ready", None, None)
        >>> record.fields = {"version": "0a1b"}
        >>> line = msgspec.json.decode(JsonLines().format(record))
        >>> line["level"], line["event"], line["version"]
        ('info', 'ready', '0a1b')
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def write_logs() -> None:
    """Sends this service's lines and those of uvicorn to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (log.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == log.name else logging.WARNING)
