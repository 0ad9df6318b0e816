"""Checks that apply to the settings of every task."""

from __future__ import annotations

from twotower.errors import ConfigError

RESERVED = ("all", "unseen")
"""Protocol names of rank metrics, which share a namespace with the names of tasks."""


def check_task_name(name: str, weight: float) -> None:
    """Refuses a weight not above 0, and a name that would make names of metrics ambiguous.

    Raises:
        ConfigError: The weight or the name is invalid.
    """
    if not weight > 0:
        raise ConfigError(f"weight={weight}; expected a number above 0", field="weight")
    if not name or "." in name or name in RESERVED:
        taken = " and ".join(RESERVED)
        raise ConfigError(f"name={name!r}; expected a name without dots, other than {taken}", field="name")
