"""`quick_exports`: exports that share what PyTorch's exporter knows of operators."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session")
def quick_exports() -> Iterator[None]:
    """The exporter parses the source of 500 functions for each export, and does not change what it finds."""
    registration: Any = importlib.import_module("torch.onnx._internal.exporter._registration")
    with pytest.MonkeyPatch.context() as patch:
        found_once = cache(registration.ONNXRegistry.from_torchlib)
        patch.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(found_once))
        yield
