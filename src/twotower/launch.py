"""What `torchrun` says of the processes that it starts; apart, as the command line reads it without PyTorch."""

from __future__ import annotations

import os


def launched_rank() -> int | None:
    """Number of this process among several that `torchrun` has started; None where it is the only one."""
    several = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    return int(os.environ["RANK"]) if several else None
