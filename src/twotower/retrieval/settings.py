"""Checks the settings of a request before anything is searched."""

from __future__ import annotations

from typing import Any

from twotower.arguments import checked
from twotower.errors import ConfigError, about
from twotower.model.rerank import MOST_RERANKED
from twotower.retrieval.answers import Reranked

HINTS: dict[str, Any] = {"k": int, "exclude_seen": bool, "where": str | None, "diversity": float, "rerank": Reranked}


def check_settings(**settings: object) -> None:
    """Refuses settings that have the wrong type or are out of range.

    Raises:
        ConfigError: A setting is invalid; the error's `field` is its name.

    Example:
        >>> check_settings(k=10, diversity=1.5)
        Traceback (most recent call last):
        twotower.errors.ConfigError: diversity=1.5; expected a number from 0 to 1
    """
    for name, value in settings.items():
        with about(name):
            read = checked("recommend", name, value, HINTS[name])
            if name == "k" and read < 1:
                raise ConfigError(f"k={value}; expected at least 1")
            if name == "diversity" and not 0 <= read <= 1:
                raise ConfigError(f"diversity={value}; expected a number from 0 to 1")
            if name == "rerank" and type(read) is int and not 1 <= read <= MOST_RERANKED:
                raise ConfigError(f"rerank={value}; expected from 1 to {MOST_RERANKED}, or None for no re-ranking")
