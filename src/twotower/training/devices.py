"""Checks the training device before training starts."""

from __future__ import annotations

import torch

from twotower.errors import ConfigError


def check_device(name: str) -> None:
    """Checks that training supports a device and that this machine has it.

    Apple's `mps` is not supported: it has no float64, in which losses are summed.

    Raises:
        ConfigError: The device is unsupported or missing; the message lists what is available.

    Example:
        >>> check_device("gpu")
        Traceback (most recent call last):
        twotower.errors.ConfigError: device='gpu'; expected cpu or cuda, or cuda:1 and so on for one of several
    """
    expected = "expected cpu or cuda, or cuda:1 and so on for one of several"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name!r}; {expected}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name!r} is not supported; {expected}")
    if device.type == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(f"device={name!r}: PyTorch {torch.__version__} finds no CUDA device here; expected cpu")
    if device.index is not None and device.index >= count:
        raise ConfigError(f"device={name!r}: there are {count} CUDA devices; expected cuda:{count - 1} at most")
