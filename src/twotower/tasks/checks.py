"""What holds of every task's settings."""

from __future__ import annotations

from twotower.errors import ConfigError

RESERVED = ("all", "unseen")
"""Names of the protocols of ranks, beside which a task's metrics are named."""


def check_task_name(name: str, weight: float) -> None:
    """Refuses a weight that is not above 0, and a name that metrics could not be found by.

    Raises:
        ConfigError: One of them is wrong.
    """
    if not weight > 0:
        raise ConfigError(f"weight={weight}; expected a number above 0", field="weight")
    if not name or "." in name or name in RESERVED:
        taken = " and ".join(RESERVED)
        raise ConfigError(f"name={name!r}; expected one without dots, other than {taken}", field="name")
