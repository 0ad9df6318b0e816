"""Reads the environment variables of `torchrun`; a separate module because the command line must not load PyTorch."""

from __future__ import annotations

import os


def launched_rank() -> int | None:
    """Rank of this process if `torchrun` started several; otherwise None."""
    several = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    return int(os.environ["RANK"]) if several else None
